"""Figures of users: the `FIGURES` of their plug-ins after those of the registry."""

from collections.abc import Iterator, Sequence

from analysis.plots.figures.registry import FIGURES, FigureSpec
from analysis.plugins import import_plugin, installed_plugins
from editors.errors import ConfigError


def figures_with(plugins: Sequence[str] = ()) -> tuple[FigureSpec, ...]:
    """The figures of the registry, of the modules `plugins` and of installed plug-ins, in this order.

    A module offers figures as `FIGURES`, a tuple of `FigureSpec`. A module of `plugins` has to offer some; an
    installed plug-in may hold other classes alone.

    Raises:
        ConfigError: for a module that cannot be imported, for one whose `FIGURES` are absent or no tuple of
            `FigureSpec`, and for two figures of one name, whose files would overwrite each other.
    """
    figures = list(FIGURES)
    for module in dict.fromkeys((*plugins, *installed_plugins())):
        required = module in plugins
        source = f"--plugin {module}" if required else f"the entry point {module}"
        for spec in _figures_of(module, source, required=required):
            if spec.name in {other.name for other in figures}:
                raise ConfigError(f"{source}: a figure {spec.name} exists already; give it another name")
            figures.append(spec)
    return tuple(figures)


def _figures_of(module: str, source: str, *, required: bool) -> Iterator[FigureSpec]:
    try:
        figures = getattr(import_plugin(module), "FIGURES", None)
    except LookupError as error:
        raise ConfigError(f"{source} {error}") from error
    if figures is None and not required:
        return
    if not isinstance(figures, tuple | list) or not all(isinstance(spec, FigureSpec) for spec in figures):
        raise ConfigError(
            f"{source}: the module has to define FIGURES, a tuple of "
            f"analysis.plots.figures.registry.FigureSpec"
        )
    yield from figures
