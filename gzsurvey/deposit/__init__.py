"""A finished run as a folder that an archive takes."""

from gzsurvey.deposit.release import Release, release

__all__ = ["Release", "release"]
