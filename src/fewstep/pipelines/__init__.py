"""Pipelines of diffusers: from text to image.

`folder.open_folder` reads a folder that `save_pretrained` wrote; `families.FAMILIES` says how the
networks of each kind are asked and their prompts encoded. A prompt is a label: its number in a
table of prompts, -1 is none. Needs the extra: pip install 'fewstep[t2i]'.
"""
