"""What each further step buys: levels chosen on the validation split, quality against cost."""

from fewstep.analysis.frontier.models import Subject, open_runs, open_teacher, same_data
from fewstep.analysis.frontier.page import Frontier
from fewstep.analysis.frontier.points import Judge, Point
from fewstep.analysis.frontier.scoring import (
    Bench,
    Plan,
    held_out,
    prepare,
    search_seed,
    with_validation,
)
from fewstep.analysis.frontier.store import Store
from fewstep.analysis.frontier.study import measure, settings_of
from fewstep.run.level_search import SearchResult, search
from fewstep.run.levels import Bounds, Levels, bounds_of, starts

__all__ = [
    "Bench",
    "Bounds",
    "Frontier",
    "Judge",
    "Levels",
    "Plan",
    "Point",
    "SearchResult",
    "Store",
    "Subject",
    "bounds_of",
    "held_out",
    "measure",
    "open_runs",
    "open_teacher",
    "prepare",
    "same_data",
    "search",
    "search_seed",
    "settings_of",
    "starts",
    "with_validation",
]
