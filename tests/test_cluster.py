"A plan on a Ray cluster: the same tables, also when a node is lost. Skipped where Ray is not."

import json
import threading
import time

import pytest
from test_experiments import PARAMETERS, RUN, notebook, root  # noqa: F401

from cot_distill import cluster
from cot_distill.experiments import read_profile
from cot_distill.results import Records
from cot_distill.runner import reproduce

ray = pytest.importorskip("ray")


@pytest.fixture
def nodes():
    "A head that runs nothing, and two nodes of one core each."
    from ray.cluster_utils import Cluster

    head = dict(num_cpus=0, include_dashboard=False)
    made = Cluster(initialize_head=True, head_node_args=head)
    workers = [made.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=made.address, log_to_driver=False)
    yield made, workers
    ray.shutdown()
    made.shutdown()


SLOW = """
import time
with open("{log}", "a") as log:
    log.write(f"{{method}}-{{seed}}\\n")
time.sleep(1)
"""


def told(root, profile):  # noqa: F811
    records = Records(root / f"data/results/{profile}.jsonl.gz").load()
    return {key: json.dumps([r["config"], r["metrics"]]) for key, r in records.items()}


@pytest.mark.parametrize("shared", [True, False], ids=["shared storage", "own storage"])
def test_a_lost_node_costs_what_it_was_running(shared, root, nodes, monkeypatch):  # noqa: F811
    made, workers = nodes
    log = root / "begun"
    (root / "mended").touch()
    (root / "settings.ini").write_text(
        "[quick]\nsteps = 2\nthreads = 1\nseeds = 0 1 2\n[twin]\nsteps = 2\nseeds = 0 1 2\n"
    )
    notebook(root / "nbs/experiments/run.ipynb", PARAMETERS, RUN.replace('"cot"', '"none"'))
    reproduce(["tiny"], read_profile("twin", root), root, progress=False)
    slow = SLOW.format(log=log) + RUN.replace('"cot"', '"none"')
    notebook(root / "nbs/experiments/run.ipynb", PARAMETERS, slow)
    if not shared:
        job_of = cluster.job_of
        monkeypatch.setattr(cluster, "job_of", lambda *a: job_of(*a)._replace(home="/elsewhere"))
    begun = lambda: log.read_text().split() if log.exists() else []

    def lose_a_node():
        while len(begun()) < 3:
            time.sleep(0.02)
        made.remove_node(workers[1], allow_graceful=False)

    threading.Thread(target=lose_a_node, daemon=True).start()
    outcomes = reproduce(["tiny"], read_profile("quick", root), root, False, engine="ray")
    assert [o.state for o in outcomes] == ["done"] * 7, outcomes
    assert told(root, "quick") == told(root, "twin") and len(told(root, "quick")) == 6
    assert (root / "figures/quick/tiny.md").read_text() == "6" and 6 <= len(begun()) <= 7
    assert len([*(root / "data/results/quick").glob("*.ipynb")]) == 6


def test_where_no_cluster_is_the_remedy_is_said(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(ray, "init", lambda *a, **k: (_ for _ in ()).throw(ConnectionError()))
    with pytest.raises(ConnectionError, match="ray start --head"):
        cluster.connected()
