"""What was added to a db.bin and removed from it since it was written: files beside it, taken in when it is opened.

Beside the file itself, that is, where db.bin is a link.

    db.bin.changes/
      manifest.json         names all that follows, with checksums; renamed into place last
      000001.added.bin      codes, rows, ids and labels that change 1 added: a flat db.bin
      000001.removed.bin    the rows that change 1 removed: int64, little-endian
      lock                  held by the one who writes

A change is one manifest: before it is there nothing counts, afterwards all does. Files that a manifest names never
change, so readers need no lock. Compaction writes a new db.bin, which says in its metadata which one it `follows`, up
to which change: with its renaming the manifest of that one is past, whether or not it is still there.

manifest: the format. folder: the lock, and what a killed writer leaves. segments: the files that a manifest names.
tombstones, merged_view: the items as they stand. merged_search: their search. The commands that change an index are in
`sdc.retrieve.update`.
"""

from sdc.retrieve.index.delta.folder import (
    COMPACTED,
    changes_folder,
    follows,
    locked,
    manifest_identity,
    superseded,
    tidy,
)
from sdc.retrieve.index.delta.manifest import Change, Identity, Manifest, Part, Source, identity, read_manifest
from sdc.retrieve.index.delta.merged_search import MergedSearcher
from sdc.retrieve.index.delta.merged_view import MergedView
from sdc.retrieve.index.delta.segments import read_changes, write_removed

__all__ = [
    "COMPACTED",
    "Change",
    "Identity",
    "Manifest",
    "MergedSearcher",
    "MergedView",
    "Part",
    "Source",
    "changes_folder",
    "follows",
    "identity",
    "locked",
    "manifest_identity",
    "read_changes",
    "read_manifest",
    "superseded",
    "tidy",
    "write_removed",
]
