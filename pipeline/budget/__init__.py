"""Budget: what one file may cost, so that no file keeps the others waiting or fills the disk.

A file may take processor time in proportion to its text, leave rows in quarantine in proportion to
its size, and name so many sensors and places. A file that takes more is refused as a whole: nothing
of it is loaded, its bytes are kept in quarantine/, and the others of its batch go on. Honest files
stay far below. What a file is refused for depends on its bytes and the settings, never on the
files beside it or on what was loaded before.

`bounds`: the limits; `processor`: processor time; `rejected`: what is left in quarantine; `named`:
sensors and places; `costs`: the latter two for the files of a transaction.
"""

from pipeline.budget.bounds import ALWAYS_ALLOWED, Bounds
from pipeline.budget.costs import Costs
from pipeline.budget.processor import Budget
from pipeline.budget.rejected import Tally, refused_files, rejected_of

__all__ = [
    "ALWAYS_ALLOWED",
    "Bounds",
    "Budget",
    "Costs",
    "Tally",
    "refused_files",
    "rejected_of",
]
