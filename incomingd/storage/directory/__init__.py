"""The directory volume: uploads in a directory that a person can read.

::

    <data_dir>/
      volume.json               the volume's id and format
      lock                      held, and signed, by the instance that uses it
      uploads/<2>/<id>/
        record.json             all that is known of the upload
        bytes.<epoch>           a segment, named by the tenure that began it
        part-<n>.<epoch>        the same, of a part of a parallel upload
      files/<id>                complete files, as web apps get them
      keys/<2>/<digest>         Idempotency-Key -> upload id
"""

from incomingd.storage.directory.volume import DirectoryOptions, DirectoryVolume

__all__ = ["DirectoryOptions", "DirectoryVolume"]
