"""The recipes by name: each is a function `(**fields) -> Run` with settings that were tried."""

from fewstep.recipes.digits import digits, digits_dit, digits_mixture, digits_unet
from fewstep.recipes.glyphs import glyphs
from fewstep.recipes.toy import toy

RECIPES = {
    "digits": digits,
    "digits-unet": digits_unet,
    "digits-dit": digits_dit,
    "digits-mixture": digits_mixture,
    "glyphs": glyphs,
    "toy": toy,
}

__all__ = ["RECIPES", "digits", "digits_dit", "digits_mixture", "digits_unet", "glyphs", "toy"]
