"""`docs/api.md`, written from the docstrings: `python -m tests.house.api` writes the page."""

import ast
import inspect
import re

import twostage_jax as ts
from tests.house.source import ROOT

PAGE = ROOT / "docs" / "api.md"
GROUPS = {
    "Runs": "Config PretrainConfig HeadConfig run Result open_run Run UserError",
    "Deployment": "export load_model Model",
    "Data": "load Dataset with_labels as_image as_batch",
    "Stages": "Stage autoencoder denoising masked vae simclr simclr_iic vicreg"
    " lejepa supervised placeholder classifier attach forward module_init init_on_features"
    " make_finish",
    "Encoders": "MLP Conv ResNet ViT Projector mirror Identity",
    "Augmentations": "augmentation Views",
    "Heads": "Head mlp finetune linear ridge knn knn_reliable prototype propagate",
    "Training": "adam freeze TrainState init_state make_train ensemble compiler_options"
    " keep_compiled",
    "Evaluation": "make_logits evaluate encode make_decode reconstruction digest",
    "Studies": "study_labels StudyResult study_noise find_suspects choose_next",
    "PyTorch": "torch_state_dict from_torch_state_dict",
}
INTRODUCTION = """# API

Every public name of `import twostage_jax as ts`, with its example. `help(ts.NAME)` shows arguments,
shapes and errors. The tests write this page from the docstrings and run the examples, so write
changes into the docstrings, then run `python -m tests.house.api`.

`ts.__version__` is the version of the package.
"""


# Objects that functions return: nobody calls these classes.
RETURNED = ("Result", "Run", "Model", "Dataset", "TrainState")


def page() -> str:
    """The text of the page."""
    links = anchors()
    index = [
        f"- {group}: {', '.join(f'[`{name}`](#{links[name]})' for name in names.split())}"
        for group, names in GROUPS.items()
    ]
    parts = [INTRODUCTION, "\n".join(index) + "\n"]
    for group, names in GROUPS.items():
        parts.append(f"## {group}\n")
        parts += [entry(name) for name in names.split()]
    return "\n".join(parts)


def anchors() -> dict[str, str]:
    """The anchors of the headings; a second heading of a name, in any case, gets a number."""
    counts: dict[str, int] = {}
    links = {}
    for name in " ".join(GROUPS.values()).split():
        count = counts.get(name.lower(), 0)
        links[name] = f"{name.lower()}-{count}" if count else name.lower()
        counts[name.lower()] = count + 1
    return links


def entry(name: str) -> str:
    """The section of a public name: signature, first sentence, methods, example."""
    value = getattr(ts, name)
    parts = [f"### {name}", summary(value)]
    if name not in RETURNED:
        parts.insert(1, f"`{call(name, value)}`")
    if inspect.isclass(value) and name in RETURNED:
        members = {key: item for key, item in vars(value).items() if not key.startswith("_")}
        listed = {
            key: item
            for key, item in members.items()
            if isinstance(item, property) or inspect.isfunction(item)
        }
        lines = [f"- `.{method(key, item)}`: {summary(item)}" for key, item in listed.items()]
        parts += ["\n".join(lines)] * bool(lines)
    parts.append(f"```pycon\n{example(inspect.getdoc(value) or '')}\n```\n")
    return "\n\n".join(parts)


def summary(value: object) -> str:
    """The first paragraph of a docstring."""
    return " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())


def method(name: str, value: object) -> str:
    """`name(argument, …)`, or `name` of a property."""
    if isinstance(value, property):
        return name
    assert callable(value)
    arguments = [key for key in inspect.signature(value).parameters if key != "self"]
    return f"{name}({', '.join(arguments)})"


def call(name: str, value: object) -> str:
    """`ts.name(argument, …)` without annotations."""
    if not callable(value):
        return f"ts.{name}"
    parts = []
    star = False
    for parameter in inspect.signature(value).parameters.values():
        # What Linen adds to each module, and what is not given by name.
        if parameter.name in ("parent", "name", "seams"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            star = True
            parts.append("*")
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        parts.append(f"{parameter.name}{default}")
    text = f"ts.{name}({', '.join(parts)})"
    # A configuration has twenty fields.
    return text if len(text) <= 200 else f"ts.{name}(…)"


IMPORTS = {
    "jax": "import jax",
    "jnp": "import jax.numpy as jnp",
    "np": "import numpy as np",
    "optax": "import optax",
    "Path": "from pathlib import Path",
    "ts": "import twostage_jax as ts",
}


def example(doc: str) -> str:
    """The lines of the first example, up to an empty line or a heading, with their imports."""
    text = re.split(r"\n\s*\n|\n(?=[A-Z]\w+:\n)", doc[doc.index(">>>") :])[0].rstrip()
    public = "|".join(ts.__all__)
    lines = []
    for line in text.splitlines():
        is_code = line.startswith((">>>", "..."))
        # An example in a module needs no prefix; a user does.
        lines.append(re.sub(rf"(?<![\w.\"'])({public})\(", r"ts.\1(", line) if is_code else line)
    code = "\n".join(line[4:] for line in lines if line.startswith((">>>", "...")))
    imported = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    needed = [
        f">>> {line}"
        for name, line in IMPORTS.items()
        if re.search(rf"(?<![\w.]){name}\b", code) and name not in imported
    ]
    return "\n".join([*needed, *lines])


if __name__ == "__main__":
    PAGE.write_text(page())
