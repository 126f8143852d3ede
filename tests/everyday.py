"""Everyday questions of our own in the forms of CommonsenseQA and QuaRel, and their teacher.

The teacher has a script that goes wrong in every way. A line of it, with the indented lines after
it, holds the question, its options and answer, the topic words that the teacher names, the target
that it chooses, its refill, the letters in which five paths end, and what becomes of the question:
`kept`, or the reason why not.
"""

import re
import threading
from collections import Counter
from http.server import ThreadingHTTPServer
from pathlib import Path

from datasets import Dataset

from cot_distill.lab_server import ChatHandler, chat_response
from cot_distill.questions import read_choices, read_quarel

FIVE = """
Where would a baker leave dough so that it rises overnight? | fridge; oven; pantry; windowsill;
    freezer | C | dough, rises overnight | B | Where would a baker leave bread so that it turns
    brown? | BBBBB | kept
What do you open when it starts to rain on the way home? | umbrella; window; letter; tin; map | A
    | rain, way home | E | What do you open when it starts to look unfamiliar on the path? | EEEEE
    | kept
The gardener waters the seedlings at dawn, where do they grow? | greenhouse; attic; cellar;
    garage; desert | A | The gardeners, waters, seedling | C | The boy hides the mushrooms at
    dawn, where do they grow? | CCCCC | kept
Why did the baby cry in the middle of the night? | hungry; tall; rich; famous; paid | A | baby;
    cry | C | Why did the gambler smile in the middle of the night? | CCCAC | kept
What would you use to hang a picture on a brick wall? | drill; spoon; pillow; ladder; soap | A |
    hang a picture, brick wall | B | What would you use to eat a soup on a winter evening? | BBBBB
    | kept
Anna forgot her keys and Anna's neighbour was away, where did Anna wait? | stairs; bank; museum;
    stage; orbit | A | Anna; keys; neighbour was away | B | Tom forgot his purse and Tom's card
    was blocked, where did Tom wait? | BBBBB | refill: other words changed
Where do people sit quietly while somebody plays the violin? | concert hall; stadium; kitchen;
    bus; market | A | quietly, violin | B | Where do people sit loudly while somebody plays the
    final? | BBBBB | kept
What does a lighthouse keeper look after in a storm? | lamp; sheep; orchard; engine; oven | A | a
    lighthouse keeper, storm | D | What does an engineer look after in a power cut? | DDDDD | kept
What is cold to the touch in the early morning? | dew; toast; coffee; stove; candle | A | cold | B
    | What is warm to the touch in the early morning? | BCBCD | paths: they disagree
Where should you keep milk once it is open? | fridge; drawer; shelf; roof; shed | A | milk, open |
    C | Where should you keep a novel once it is read? | C-C-C | paths: they disagree
What helps a tired person fall asleep at last? | lullaby; coffee; alarm; race; quiz | A | tired
    person | B | | | refill: empty
Which tool cuts a loaf without crumbs? | bread knife; saw; scissors; axe; razor | A | loaf, crumbs
    | B | Question = Which tool cuts a plank? | | refill: no question line
Where does a sailor sleep on a long voyage? | bunk; tent; hotel; barn; office | A | sailor, voyage
    | B | Where does a hiker sleep on a long [MASK]? | | refill: a mask is left
What do you wear on your feet in fresh snow? | boots; sandals; slippers; fins; socks | A | snow |
    B | What do you wear on your feet in fresh Snow? | | refill: same as the original
What do you spread on bread for breakfast? | jam; glue; paint; sand; ink | A | bread, breakfast |
    B | What do you spread on paper with glue? | | refill: other words changed
What do children build at the sea? | sandcastle; snowman; igloo; nest; web | A | at the sea | B |
    What do children build snowman in winter? | | refill: names the answer
Who repairs a dripping tap? | plumber; baker; pilot; judge; poet | A | dripping tap | B | Who
    repairs a (B) cake? | | refill: not well formed
Who flies to the sun at noon? | pilot; nobody; baker; judge; poet | A | flies, noon | B | I'm
    sorry, but I cannot help with that. | | refill: refusal
Where is salt water found in large amounts? | ocean; well; puddle; kettle; cloud | A | large
    amounts | E | Where is salt water found in ... | | refill: truncated
What shines at night above the roofs? | moon; lamp; mirror; coin; glass | A | night | A | | |
    target: the answer itself
What does a cat chase through the house? | mouse; sofa; roof; idea; wall | A | cat, house | ? | |
    | target: no option chosen
When do owls hunt in the forest? | at night; at noon; never; on Sundays; at school | A | winter
    coat, ice | B | | | topic words: none is in the question
Who won? | Ann; Ben; Cid; Dan; Eve | A | who, won | B | | | topic words: all of the question
How can you light a room? | candle; stone; rug; fork; vase | A | I cannot help with that. | B | |
    | topic words: refusal
How do you cool tea? | wait; sing; run; read; dig | A | | B | | | topic words: empty
How do birds keep warm in winter? | feathers; fire; gloves; soup; wool | A | keep warm in ... | B
    | | | topic words: truncated
"""
TWO = """
Mia's sled slid farther on the ice than on the gravel. Which surface is rougher? (A) the ice (B)
    the gravel | B | slid farther on the ice | A | Mia's sled stopped sooner on the ice than on
    the gravel. Which surface is rougher? | AAAAA | kept
Mia's sled slid farther on the ice than on the gravel. Which surface has more friction? (A) ice
    (B) gravel | B | slid farther, more friction | A | Mia's sled slid farther on the ice than on
    the gravel. Which surface has less friction? | AAAAA | kept
The kettle looked small from the gate but big from the porch. Where was Leo closer to it? (A) at
    the gate (B) on the porch | B | small, big | A | The kettle looked big from the gate but tiny
    from the porch. Where was Leo closer to it? | AAAAB | kept
A thick rope holds longer than a thin one. Which should Sam use for a swing? (A) thick (B) thin |
    A | thick, thin | B | | | topic words: only options
Rosa threw the ball harder than Ken did. Whose ball flew farther? (A) Rosa's (B) Ken's | A |
    harder; farther | B | Rosa threw the ball softer than Ken did. Whose ball flew farther? |
    BBBBB | kept
The drum sounded loud in the hall and faint in the yard. The drummer was _____ the hall. (A)
    nearer to (B) farther from | A | loud, faint | B | The drum sounded faint in the hall and loud
    in the yard. The drummer was _____ the hall. | BBBBB | kept
Nils pushed the heavy crate and the light basket, which moved slower? (A) crate (B) basket | A |
    heavy, light | B | Nils pushed the light crate and the heavy basket, which moved slower? |
    BBBBB | kept
A truck and a bike brake on a wet road; which one needs more room? (A) the truck (B) the bike | A
    | needs more room | B | A truck and a bike brake on a wet road; which one needs less room? |
    BBABA | paths: they disagree
"""


# replies to the two views of an original question that are not what was asked for
ASTRAY = {
    ("C0", "nvc"): "(A) is cold. (B) is hot. (D) is bright.\nAnswer: (C)",
    ("C1", "pvc"): "A tin keeps dry.\nAnswer: (E)",
    ("C2", "nvc"): "(B), (C), (D) and (E) let nothing grow. So the answer is (B).\nAnswer: (A)",
    ("C3", "pvc"): "Answer: (A)",
    ("C4", "nvc"): "I'm sorry, I cannot help with that.",
    ("C5", "pvc"): "People wait on stairs",
    ("Q1", "nvc"): "The gravel is rough.\nAnswer: (B)",
    ("Q2", "nvc"): "",
}


class Line:
    "One question and its script."

    def __init__(self, id, text):
        self.id = id
        *shown, answer, self.topics, self.target, self.refill, self.paths, self.fate = [
            part.strip() for part in text.split("|")
        ]
        if id[0] == "Q":
            self.row = dict(id=id, question=shown[0], answer_index="AB".index(answer))
        else:
            self.row = dict(
                id=id,
                question=shown[0],
                answerKey=answer,
                choices=dict(label=list("ABCDE"), text=shown[1].split("; ")),
            )
        self.question = (
            read_quarel(self.row) if id[0] == "Q" else read_choices("commonsense_qa", self.row)
        )

    def say(self, view, stem, shown, sample):  # `shown`: the letter that the prompt names, if any
        "What the teacher replies."
        if view == "topic":
            return self.topics
        if view == "target":
            return f"Answer: ({self.target})"
        if view == "refill":
            return (
                self.refill
                if self.refill.startswith(("Question", "I'm")) or not self.refill
                else f"Question: {self.refill}"
            )
        original = stem == self.question.stem
        if original and (self.id, view) in ASTRAY:
            return ASTRAY[self.id, view]
        letter = shown or (self.question.answer if original else self.paths[sample])
        if letter == "-":
            return "It could be any of them."
        reasons = (
            [f"({other}) is not it." for other in self.question.choices if other != letter]
            if view == "nvc"
            else [f"It must be {self.question.choices[letter]}."]
        )
        return f"{' '.join(reasons)}\nAnswer: ({letter})"


LINES = [
    Line(f"{form}{i}", text)
    for form, texts in (("C", FIVE), ("Q", TWO))
    for i, text in enumerate(texts.strip().replace("\n    ", " ").splitlines())
]
QUESTIONS = [line.question for line in LINES]
OPENINGS = dict(
    topic="Name the topic",
    target="A few words of",
    refill="Words of the",
    pvc="Explain step",
    nvc="Rule the wrong",
    cot="Answer the",
)


class ScriptServer(ThreadingHTTPServer):
    "The script as an OpenAI-compatible endpoint; `asked` counts the samples of each view."

    daemon_threads, request_queue_size = True, 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), ChatHandler)
        self.url, self.asked, self.given, self.lock = (
            f"http://127.0.0.1:{self.server_port}/v1",
            Counter(),
            Counter(),
            threading.Lock(),
        )
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def answer(self, asked):
        "Find question and view by options and instruction; a reply that ends in ... was cut off."
        system, user = (m["content"] for m in asked["messages"])
        view, n = (
            next(v for v, opening in OPENINGS.items() if system.startswith(opening)),
            asked.get("n") or 1,
        )
        stem, options, *shown = user.split("\n\n")
        line = next(
            line
            for line in LINES
            if options == "\n".join(f"({k}) {t}" for k, t in line.question.choices.items())
        )
        with self.lock:
            first = self.given[user, view]
            self.given[user, view] += n
            self.asked[view] += n
        letter = re.search(r"\((\w)\)", shown[0])[1] if shown else None
        response = chat_response(
            "script", [line.say(view, stem, letter, first + i) for i in range(n)], asked["messages"]
        )
        for choice in response["choices"]:
            if choice["message"]["content"].endswith("..."):
                choice["finish_reason"] = "length"
        return response

    def close(self):
        self.shutdown()
        self.server_close()


def write_mirror(folder: Path, train: list[Line], test: list[Line]):
    "Questions as a mirror of the hub."
    for hub, form, names in (
        ("tau/commonsense_qa", "C", ("train", "validation")),
        ("community-datasets/quarel", "Q", ("train", "validation", "test")),
    ):
        (place := folder / hub / "data").mkdir(parents=True)
        for name in names:
            Dataset.from_list(
                [line.row for line in (train if name == "train" else test) if line.id[0] == form]
            ).to_parquet(place / f"{name}.parquet")
        files = "".join(f"\n  - split: {name}\n    path: data/{name}.parquet" for name in names)
        (folder / hub / "README.md").write_text(
            f"---\nconfigs:\n- config_name: default\n  data_files:{files}\n---\n"
        )
