"""The rooms of the house and what each uses, read from the imports (`make house`); docs/design.md shows it."""

import grimp

PACKAGES = ("cluster", "pipelines", "tdformer")


def main() -> None:
    graph = grimp.build_graph(*PACKAGES)
    packages = {m for m in graph.modules if graph.find_children(m) and m.count(".") == 1}

    def room(module: str) -> str:
        """Its sub-package, or the package whose file it is."""
        top, _, rest = module.partition(".")
        within = f"{top}.{rest.partition('.')[0]}"
        return within if within in packages else top

    uses: dict[str, set[str]] = {}
    files: dict[str, int] = {}
    for module in graph.modules:
        here = room(module)
        files[here] = files.get(here, 0) + 1
        there = {room(other) for other in graph.find_modules_directly_imported_by(module)}
        uses.setdefault(here, set()).update(there - {here})
    for here in sorted(uses):
        own, top = here.partition(".")[0], here.count(".") == 0
        inside = sorted(r.removeprefix(f"{own}.") for r in uses[here] if r.startswith(f"{own}."))
        outside = sorted({r.partition(".")[0] for r in uses[here]} - {own})
        base = ["its files"] if own in uses[here] and not top else []
        print(f"{here:<20} {files[here]:>3} files -> {', '.join([*inside, *base, *outside]) or 'nothing'}")


if __name__ == "__main__":
    main()
