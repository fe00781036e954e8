"""The report page of ``viz``: its pictures and its one HTML file, in a folder of its own or all in the one file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from vlmdet_cli.core.files import whole_file
from vlmdet_cli.data.ground_truth import Truth
from vlmdet_cli.drawing import page
from vlmdet_cli.errors import UsageError, counted
from vlmdet_cli.stages.evaluation.page_data import Compared, Evaluated, page_data
from vlmdet_cli.stages.evaluation.page_pictures import columns, data_url, write_images

INDEX = "index.html"
MOST, MOST_EMBEDDED = 20_000, 2_000  # pictures; more make the page slow, or the one file too large to send
_EARLIER_MARK = 'href="sheet.jpg"'  # of pages of versions that wrote no mark


class PageSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the pictures lie and where the page goes. ``single_file``: with all pictures inside. ``attached``: files
    beside the page that it shows or links to, by name, such as ``curve``. ``compared``: with what an earlier model did.
    """

    images: Path
    output: Path
    single_file: bool = False
    attached: dict[str, Path]
    compared: Compared | None = None
    on_picture: Callable[[int, int], None] = lambda _done, _total: None


class PageResult(msgspec.Struct, frozen=True):
    """The pictures of the page, and those of them that cannot be read; sentences for the user."""

    pictures: int
    gone: int
    notes: list[str]


def most(*, single_file: bool) -> int:
    """The largest number of pictures that a page shows."""
    return MOST_EMBEDDED if single_file else MOST


def require_own_folder(output: Path) -> None:
    """Raise ``UsageError`` where the folder has a page that vlmdet did not write: it would be lost."""
    path = output / INDEX
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(1 << 14).decode("utf-8", "replace")
        if page.MARK not in head and _EARLIER_MARK not in head:
            raise UsageError(
                f"The folder has an {INDEX} that vlmdet did not write: {output}",
                hint="Name another folder with --output, or move the file away.",
            )


def write_page(truth: Truth, evaluated: Evaluated | None, chosen: Sequence[int], settings: PageSettings) -> PageResult:
    """Write the page of the pictures whose indices are ``chosen``, in their order."""
    sources = [truth.data.images[index] for index in chosen]
    images = write_images(
        settings.output,
        [(settings.images / image.file_name, (image.width, image.height)) for image in sources],
        embed=settings.single_file,
        on_picture=lambda done: settings.on_picture(done, len(sources)),
    )
    data = page_data(truth, evaluated, chosen, settings.compared)
    own = columns(images, data["pictures"]["size"], embed=settings.single_file)
    data["images"] = own.pop("images")
    data["pictures"] |= own
    gone = sum(bool(image.gone) for image in images)
    notes = _notes(len(chosen), len(truth.data.images), gone)
    data["notes"] += notes
    data |= {name: _address(path, settings) for name, path in settings.attached.items()}
    _write(page.render(_title(evaluated, settings.compared), data), settings.output / INDEX)
    return PageResult(len(chosen), gone, notes)


def _title(evaluated: Evaluated | None, compared: Compared | None) -> str:
    if evaluated is None:
        return "Annotations"
    split = evaluated.predictions.path.stem
    return f"{split}: {' and '.join(compared.names)}" if compared else f"{split}: predictions and truth"


def _notes(shown: int, total: int, gone: int) -> list[str]:
    notes = []
    if shown < total:
        notes.append(
            f"The page shows {shown:,} of {total:,} pictures, those with most errors; what it counts anew is of them."
        )
    if gone:
        notes.append(f"{counted(gone, 'picture')} of the page cannot be read: it shows their boxes on an empty ground.")
    return notes


def _address(path: Path, settings: PageSettings) -> Any:
    return data_url(path) if settings.single_file else path.name


def _write(text: str, path: Path) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "xmlcharrefreplace"))
