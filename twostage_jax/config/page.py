"""The text of `help(ts.Config)`, from the declarations of the fields and the strings under them."""

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from types import ModuleType

from twostage_jax.config.fields import Declaration, declarations

WIDTH = 88


class Page:
    """Docstring of a configuration, written when it is first read; use it as `__doc__`.

    Args:
        kind: the configuration.
        groups: configurations that are fields of it, by name.
    """

    def __init__(self, kind: type, groups: Mapping[str, type]) -> None:
        self._text = inspect.getdoc(kind) or ""
        self._kind = kind
        self._groups = groups

    def __get__(self, instance: object, owner: type) -> str:
        """Return the docstring and a section with all fields."""
        # Subclasses, such as the commands, inherit nothing of it.
        lines = [self._text, "", "Fields:"]
        for name, declaration in declarations(self._kind).items():
            lines += _entry(self._kind, name, declaration)
        for name, group in self._groups.items():
            about = _help_texts(self._kind).get(name, "")
            lines += ["", f"Fields of `{name}`, a dict or a {group.__name__}. {about}:"]
            for field, declaration in declarations(group).items():
                lines += _entry(group, field, declaration)
        return "\n".join(lines) + "\n"


def documented(kind: type, groups: Mapping[str, type]) -> None:
    """Give a configuration its page, and a signature without annotations."""
    page = Page(kind, groups)
    # Annotations hold checks and flags, which take many lines.
    parameters = inspect.signature(kind.__init__).parameters.values()
    plain = [parameter.replace(annotation=parameter.empty) for parameter in parameters]
    init = kind.__init__
    setattr(init, "__signature__", inspect.Signature(plain))  # noqa: B010 pyright knows no such name
    setattr(kind, "__signature__", inspect.Signature(plain[1:]))  # noqa: B010
    setattr(kind, "__doc__", page)  # noqa: B010


def _entry(kind: type, name: str, declaration: Declaration) -> list[str]:
    """Return the lines of one field: name, default, help text, allowed values."""
    text = _help_texts(*kind.__mro__).get(name, "")
    allowed = (declaration.check.__doc__ or "").splitlines()[:1]
    if allowed and allowed[0].startswith("Accept "):
        text += f". Allowed: {allowed[0].removeprefix('Accept ').rstrip('.')}"
    default = f" (default: {declaration.hint})" if declaration.hint else ""
    body = textwrap.wrap(text, WIDTH - 8, break_long_words=False, break_on_hyphens=False)
    return [f"    {name}{default}", *(f"        {line}" for line in body)]


def _help_texts(*kinds: type) -> dict[str, str]:
    """Return the strings under the fields of some classes, by field."""
    texts: dict[str, str] = {}
    for kind in reversed(kinds):
        if kind is not object:
            texts |= _texts_of_module(inspect.getmodule(kind), kind.__name__)
    return texts


@cache
def _texts_of_module(module: ModuleType | None, kind: str) -> dict[str, str]:
    """Return the strings under the fields of a class of a module, by field."""
    texts = {}
    for node in ast.parse(inspect.getsource(module)).body if module else []:
        if not isinstance(node, ast.ClassDef) or node.name != kind:
            continue
        for field, text in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                texts[ast.unparse(field.target)] = " ".join(ast.literal_eval(text.value).split())
    return texts
