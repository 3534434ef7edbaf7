"""What tests send to workers: a module of its own, because the workers import it."""

import os
import time

from tests.tiny import tiny_clip, tiny_pipeline


def four_steps():
    """The workers' pipeline."""
    return tiny_pipeline(default_steps=4)


def four_steps_on(_device, _leads):
    return four_steps()


def failing(error, _pipeline):
    yield "begun"
    raise error


def endless(_pipeline):
    while True:
        yield "still here"
        time.sleep(0.01)


def silent(_pipeline):
    yield os.getpid()
    time.sleep(600)


def half_a_run(pipeline):
    """A job that fails between two steps of a run, after which the others wait inside it for nobody."""
    for step in pipeline.stream(video=tiny_clip(), prompt="a"):
        yield step.step
        raise KeyError("between two steps")


def steps(count, pipeline):
    for event in pipeline.stream(video=tiny_clip(), prompt="a", num_inference_steps=count, output_type="latent"):
        yield getattr(event, "step", None)
