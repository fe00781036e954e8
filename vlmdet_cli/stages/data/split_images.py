"""The pictures of a split in the output folder: linked, copied or changed, one by one or as linked folders."""

import os
import shutil
from pathlib import Path

from vlmdet_cli.core.files import whole_file
from vlmdet_cli.data.image_import import materialize_all
from vlmdet_cli.project import Project
from vlmdet_cli.stages.data.split_selection import Progress, SplitSelection


def import_images(project: Project, selection: SplitSelection, progress: Progress) -> dict[str, int]:
    """Put the pictures where rows name them; counts of linked, copied, mended. Pictures of an earlier run stay."""
    folder, mode = project.images(selection.split), project.config.data.images
    if mode == "folder":
        _link_folders(folder, selection)
        return {"linked": len(selection.data.images), "copied": 0, "mended": 0}
    _remove_links(folder)
    pictures = [
        (Path(path), folder / image.file_name, selection.fixes.get(image.file_name, ()))
        for path, image in zip(selection.image_paths(), selection.data.images, strict=True)
    ]
    return materialize_all(pictures, mode, lambda done, total: progress(f"{selection.split}: images", done, total))


def remove_other_images(project: Project, selection: SplitSelection) -> None:
    """Remove the pictures of an earlier run that are not selected; links are removed, not followed.

    Shards share the folder, so none removes what another one put there.
    """
    if project.shard is not None or project.config.data.images == "folder":
        return
    folder, names = project.images(selection.split), {image.file_name for image in selection.data.images}
    for path, _, files in os.walk(folder):
        parent = Path(path).relative_to(folder)
        for name in files:
            if (parent / name).as_posix() not in names:
                (Path(path) / name).unlink()


def link_folder(link: Path, folder: Path) -> None:
    """A relative symbolic link to a folder, in place of an earlier link: the project can be moved with its sources."""
    link.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(link) as temporary:
        temporary.symlink_to(os.path.relpath(folder.resolve(), link.parent.resolve()), target_is_directory=True)


def _remove_links(folder: Path) -> None:
    """Remove an earlier run's links to image folders, so that nothing is written through them or removed in them."""
    subfolders = folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ()
    for path in [folder, *subfolders]:
        if path.is_symlink():
            path.unlink()


def _link_folders(folder: Path, selection: SplitSelection) -> None:
    """Links to the image folders of all sources, in place of what an earlier run put there."""
    if folder.exists() and not folder.is_symlink():
        shutil.rmtree(folder)
    elif "" not in selection.folders:
        folder.unlink(missing_ok=True)
    for prefix, source in selection.folders.items():
        link_folder(folder / prefix if prefix else folder, source)
