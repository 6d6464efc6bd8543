"""The recipes by name: each is a function `(**fields) -> Run` with settings that were tried."""

from fewstep.recipes.digits import digits
from fewstep.recipes.toy import toy

RECIPES = {"digits": digits, "toy": toy}

__all__ = ["RECIPES", "digits", "toy"]
