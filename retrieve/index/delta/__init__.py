"""A living index: what was added to a db.bin and removed from it since, beside it, and merged into it at times.

Beside the file itself, that is, where db.bin is a link.

    db.bin.changes/
      manifest.json         names all that follows, with checksums; renamed into place last
      000001.added.bin      codes, rows, ids and labels that change 1 added: a flat db.bin
      000001.removed.bin    the rows that change 1 removed: int64, little-endian
      lock                  held by the one who writes

A change is one manifest: before it is there nothing counts, afterwards all does. Files that a manifest names never
change, so readers need no lock. Compaction writes a new db.bin, which says in its metadata which one it `follows`, up
to which change: with its renaming the manifest of that one is past, whether or not it is still there.

manifest: the format. folder: the lock, what is left over. live: the items as they stand. items: joins and look-ups of
entries. searcher: the search. checks: what may be added. changes: the commands add, remove and compact.
"""
