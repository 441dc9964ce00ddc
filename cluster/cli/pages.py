"""Help pages: commands in groups with a title, arguments and values under the names that the manual has for them.

What typer hands them, a context and a formatter, are of a package within it that is not public.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

F = TypeVar("F", bound=Callable[..., object])


class Page(TyperCommand):
    """Of one command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """An argument that is missing is told what it is; what looks like an option and is a setting, its key."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            missing = getattr(getattr(error, "param", None), "help", None)
            if missing and not getattr(error, "message", None):
                error.message = missing  # type: ignore[attr-defined]
            option = str(getattr(error, "option_name", "")).lstrip("-").replace("-", "_")
            if option and any(param.name == "overrides" for param in self.params):
                from .arguments import setting_keys

                keys = [key for key in setting_keys() if option in (key, key.rpartition(".")[2])]
                error.message += f"; it is a setting: {keys[0]}=..." if keys else ""  # type: ignore[attr-defined]
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        found: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
        for param in self.get_params(ctx):
            if (record := param.get_help_record(ctx)) is not None:
                name, text = record
                kind = param.param_type_name
                found[kind].append((param.metavar or name if kind == "argument" else name, text))
        for title, rows in (("Arguments", found["argument"]), ("Options", found["option"])):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class Contents(TyperGroup):
    """Of all commands, each below the title of its group."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        titles: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            rows = titles.setdefault(getattr(command, "rich_help_panel", None) or "Commands", [])
            rows.append((name, command.get_short_help_str(100)))
        for title, rows in titles.items():
            with formatter.section(title):
                formatter.write_dl(rows)


class Group(typer.Typer):
    """Commands with one title."""

    def __init__(self, title: str) -> None:
        super().__init__(rich_markup_mode=None)
        self.title = title

    def add(self, summary: str, name: str | None = None) -> Callable[[F], F]:
        """Decorates a command. summary: in a few words, for the list of all; its page has the docstring."""
        return self.command(name, cls=Page, short_help=summary, rich_help_panel=self.title)

    def below(self, name: str, summary: str, text: str, cls: type[TyperGroup] = TyperGroup) -> Group:
        """A command that has commands."""
        inner = Group(self.title)
        self.add_typer(
            inner,
            name=name,
            cls=cls,
            short_help=summary,
            help=text,
            no_args_is_help=True,
            rich_help_panel=self.title,
        )
        return inner
