"""Print docs/config.md: every field with default, values, what depends on it, and meaning.

python -m usss_jax.config > docs/config.md
"""

from usss_jax.config.checking import fields
from usss_jax.config.field import Changes, Field
from usss_jax.config.methods import FIELDS, METHODS

HEAD = """# Config

Made by `python -m usss_jax.config > docs/config.md` from the declarations in `usss_jax/config/`:
`shared.py`, and a file for each method.

A file in `configs/` is a Python function `get_config` that changes the defaults below; `--config=FILE:ARGUMENTS` gives
it arguments, and `--config.SECTION.FIELD=VALUE` overrides a field. `method` says which fields there are: "usss" has all
but those of `imagenet`; "imagenet" has these, and those that name a default for it.

- Fields *per domain* take one value for all domains, or `name=value,name=value`, such as
  `--config.data.image_size=camvid=360x480,mine=256x256`.
- *Changes numbers*: a field with "no" may have another value when a run resumes in its workdir, no other field may.
  "By content" stands for fields that select data or name a file: what is there is compared, wherever it lies. A run
  with `usss.single_from` agrees with that run in all fields that change the numbers of single-domain networks.
"""
COLUMNS = ("field", "default", "values", "per domain", "changes numbers", "meaning")
SECTIONS = {
    "": "What is trained",
    "data": "Data and augmentation",
    "model": "Network",
    "optim": "Optimiser",
    "train": "Training",
    **{section: title for method in METHODS.values() for section, title in method.sections.items()},
}


def page() -> str:
    """Content of docs/config.md."""
    parts = [HEAD]
    for section, title in SECTIONS.items():
        lines = [row(name, field) for name, field in FIELDS.items() if name.rpartition(".")[0] == section]
        parts.append("\n".join([f"## {title}\n", line(COLUMNS), "|---" * len(COLUMNS) + "|", *lines, ""]))
    return "\n".join(parts)


def row(name: str, field: Field) -> str:
    """One field as a line of the table."""
    first, *others = [(method, fields(method)[name].default) for method in METHODS if name in fields(method)]
    default = shown(first[1])
    default += "".join(f"; {method}: {shown(value) if value != first[1] else 'the same'}" for method, value in others)
    changes = field.changes.value
    if field.changes is Changes.NUMBERS and not field.singles:
        changes = "all but single-domain networks'"
    per_domain = "yes" if field.per_domain else ""
    return line([f"`{name}`", default, field.range.text, per_domain, changes, field.meaning])


def shown(value) -> str:
    """Default as the command line takes it."""
    text = ",".join(value) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value)
    return f"`{text}`" if text else "empty"


def line(cells) -> str:
    """Line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(page(), end="")
