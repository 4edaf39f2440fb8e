"""The model card: what the student is, what was measured of it, and what it is not."""

from __future__ import annotations

from limbeck.models.references import SHORT_NAMES
from limbeck.report.page import TEMPLATES, Story


def model_card(story: Story, licence: str | None) -> str:
    """README.md for the student's folder or the Hub. A licence that nobody named is said to be the base model's."""
    from huggingface_hub import ModelCard, ModelCardData
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    wheel = SHORT_NAMES.get(story.base)
    hub_name = wheel.hub_name if wheel is not None else story.base if story.base.count("/") == 1 else None
    chosen = licence or (wheel.licence if wheel is not None else None)
    data = ModelCardData(
        base_model=hub_name,
        language=story.exam.languages or ["en"],
        library_name="transformers",
        license=chosen or "other",
        license_name=None if chosen else "as-the-base-model",
        pipeline_tag="text-generation",
        tags=["limbeck", "distillation", "safety"],
    )
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["in_table"] = in_table
    text = environment.get_template("card.md.j2").render(story=story, licence=chosen, hub_name=hub_name)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")) + "\n"


def in_table(text: str) -> str:
    """The text as it may stand in a cell of a Markdown table."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return plain.replace("|", "\\|")
