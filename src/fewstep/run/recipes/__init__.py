"""The recipes by name: each is a function `(**fields) -> Run`.

The small ones have settings that were tried; those of papers have the papers', with the source of
each number beside it, and docs/reproduce.md says what they cost and what they gave.
"""

from fewstep.run.recipes.auto import auto
from fewstep.run.recipes.cifar10 import (
    cifar10_ect,
    cifar10_ect_gc,
    cifar10_ect_gc_hour,
    cifar10_ect_hour,
    cifar10_ict,
    cifar10_ict_deep,
    cifar10_tcm,
)
from fewstep.run.recipes.cifar10_maps import cifar10_cmt, cifar10_meanflow, cifar10_soflow
from fewstep.run.recipes.cm import cifar10_cd, cifar10_ct, imagenet64_cd, imagenet64_ct
from fewstep.run.recipes.digits import digits, digits_dit, digits_mixture, digits_unet
from fewstep.run.recipes.gc_sets import celeba64_gc, cifar10_gc, imagenet32_gc, lsun64_gc
from fewstep.run.recipes.glyphs import glyphs
from fewstep.run.recipes.hanzi import hanzi, hanzi16
from fewstep.run.recipes.imagenet64 import (
    imagenet64_ect_s,
    imagenet64_ect_xl,
    imagenet64_ict,
    imagenet64_ict_deep,
    imagenet64_tcm_s,
    imagenet64_tcm_xl,
)
from fewstep.run.recipes.imagenet256 import (
    imagenet256_imf,
    imagenet256_imf_b2,
    imagenet256_meanflow,
    imagenet256_meanflow_b2,
    imagenet256_soflow,
)
from fewstep.run.recipes.imagenet_mcm import (
    imagenet64_mcm_large,
    imagenet64_mcm_small,
    imagenet128_mcm_large,
    imagenet128_mcm_small,
)
from fewstep.run.recipes.scm import (
    cifar10_scd,
    cifar10_sct,
    imagenet64_scd,
    imagenet64_sct,
)
from fewstep.run.recipes.teachers import cifar10_edm_ddpmpp, cifar10_edm_ncsnpp, imagenet64_edm
from fewstep.run.recipes.toy import toy

SMALL = {
    "auto": auto,
    "digits": digits,
    "digits-unet": digits_unet,
    "digits-dit": digits_dit,
    "digits-mixture": digits_mixture,
    "glyphs": glyphs,
    "hanzi": hanzi,
    "hanzi16": hanzi16,
    "toy": toy,
}
PAPERS = {
    "cifar10-edm-ddpmpp": cifar10_edm_ddpmpp,
    "cifar10-edm-ncsnpp": cifar10_edm_ncsnpp,
    "cifar10-cd": cifar10_cd,
    "cifar10-ct": cifar10_ct,
    "cifar10-ict": cifar10_ict,
    "cifar10-ict-deep": cifar10_ict_deep,
    "cifar10-ect": cifar10_ect,
    "cifar10-ect-hour": cifar10_ect_hour,
    "cifar10-gc": cifar10_gc,
    "cifar10-ect-gc": cifar10_ect_gc,
    "cifar10-ect-gc-hour": cifar10_ect_gc_hour,
    "cifar10-tcm": cifar10_tcm,
    "cifar10-sct": cifar10_sct,
    "cifar10-scd": cifar10_scd,
    "cifar10-meanflow": cifar10_meanflow,
    "cifar10-soflow": cifar10_soflow,
    "cifar10-cmt": cifar10_cmt,
    "imagenet32-gc": imagenet32_gc,
    "celeba64-gc": celeba64_gc,
    "lsun64-gc": lsun64_gc,
    "imagenet64-edm": imagenet64_edm,
    "imagenet64-cd": imagenet64_cd,
    "imagenet64-ct": imagenet64_ct,
    "imagenet64-ict": imagenet64_ict,
    "imagenet64-ict-deep": imagenet64_ict_deep,
    "imagenet64-ect-s": imagenet64_ect_s,
    "imagenet64-ect-xl": imagenet64_ect_xl,
    "imagenet64-tcm-s": imagenet64_tcm_s,
    "imagenet64-tcm-xl": imagenet64_tcm_xl,
    "imagenet64-sct": imagenet64_sct,
    "imagenet64-scd": imagenet64_scd,
    "imagenet64-mcm-small": imagenet64_mcm_small,
    "imagenet64-mcm-large": imagenet64_mcm_large,
    "imagenet128-mcm-small": imagenet128_mcm_small,
    "imagenet128-mcm-large": imagenet128_mcm_large,
    "imagenet256-meanflow": imagenet256_meanflow,
    "imagenet256-meanflow-b2": imagenet256_meanflow_b2,
    "imagenet256-imf": imagenet256_imf,
    "imagenet256-imf-b2": imagenet256_imf_b2,
    "imagenet256-soflow": imagenet256_soflow,
}
RECIPES = {**SMALL, **PAPERS}

__all__ = [
    "PAPERS",
    "RECIPES",
    "SMALL",
    "auto",
    "celeba64_gc",
    "cifar10_cd",
    "cifar10_cmt",
    "cifar10_ct",
    "cifar10_ect",
    "cifar10_ect_gc",
    "cifar10_ect_gc_hour",
    "cifar10_ect_hour",
    "cifar10_edm_ddpmpp",
    "cifar10_edm_ncsnpp",
    "cifar10_gc",
    "cifar10_ict",
    "cifar10_ict_deep",
    "cifar10_meanflow",
    "cifar10_scd",
    "cifar10_sct",
    "cifar10_soflow",
    "cifar10_tcm",
    "digits",
    "digits_dit",
    "digits_mixture",
    "digits_unet",
    "glyphs",
    "hanzi",
    "hanzi16",
    "imagenet32_gc",
    "imagenet64_cd",
    "imagenet64_ct",
    "imagenet64_ect_s",
    "imagenet64_ect_xl",
    "imagenet64_edm",
    "imagenet64_ict",
    "imagenet64_ict_deep",
    "imagenet64_mcm_large",
    "imagenet64_mcm_small",
    "imagenet64_scd",
    "imagenet64_sct",
    "imagenet64_tcm_s",
    "imagenet64_tcm_xl",
    "imagenet128_mcm_large",
    "imagenet128_mcm_small",
    "imagenet256_imf",
    "imagenet256_imf_b2",
    "imagenet256_meanflow",
    "imagenet256_meanflow_b2",
    "imagenet256_soflow",
    "lsun64_gc",
    "toy",
]
