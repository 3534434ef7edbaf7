"""A vision model as judge: any server that speaks OpenAI's chat protocol scores pairs of pictures or clips.

`client` asks and survives faults, `answers` reads scores strictly and keeps every raw answer in files that a killed
process cannot spoil, `questions` says what is asked, `media` samples frames, `session` puts them together.
"""
