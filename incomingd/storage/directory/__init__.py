"""The directory volume: uploads in a directory that a person can read.

::

    <data_dir>/
      volume.json               the volume's id and format
      lock                      held, and signed, by the process that uses it alone, or by all that share it
      instances/<run>.lock      held by one run of an instance for its life; <run>.over: it is over
      uploads/<2>/<id>/
        record.json             all that is known of the upload
        bytes.<epoch>           a segment, named by the tenure that began it
        part-<n>.<epoch>        the same, of a part of a parallel upload
      files/<id>                complete files, as web apps get them
      keys/<2>/<digest>         Idempotency-Key -> upload id

Once instances have shared it::

        claim.<epoch>.json      the claim that began a tenure, made once
        record.<epoch>.json     that tenure's record; the highest counts
      keys/<2>/<digest>.bound/<n>   the key, bound for the n-th time; the highest counts
"""

from incomingd.storage.directory.opening import DirectoryOptions
from incomingd.storage.directory.volume import DirectoryVolume

__all__ = ["DirectoryOptions", "DirectoryVolume"]
