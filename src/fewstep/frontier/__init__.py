"""What each further step buys: levels chosen on the validation split, quality against cost on the test split."""

from fewstep.frontier.levels import Bounds, Levels, bounds_of, starts
from fewstep.frontier.page import Frontier
from fewstep.frontier.points import Judge, Point
from fewstep.frontier.scoring import Bench, Plan, held_out, prepare, search_seed
from fewstep.frontier.search import Found, search
from fewstep.frontier.store import Store
from fewstep.frontier.study import measure, settings_of
from fewstep.frontier.subjects import Subject, open_runs, open_teacher, same_data

__all__ = [
    "Bench",
    "Bounds",
    "Found",
    "Frontier",
    "Judge",
    "Levels",
    "Plan",
    "Point",
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
]
