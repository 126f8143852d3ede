"The tests import one another's measurements, and share a server."

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from chat_server import serve  # noqa: E402, F401
