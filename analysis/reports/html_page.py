"""Pages of HTML that need no network, from the templates of this folder."""

from pathlib import Path

import jinja2

from analysis.spelling import spelled


def html_page(template: str, **values: object) -> str:
    """The page that a template makes of these values; every text is escaped, a missing value is an error."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.filters["spelled"] = spelled
    return templates.get_template(template).render(values)
