"""Edits a file, with its sound, and shows how far it is.

python examples/edit_a_file.py in.mp4 "Make it snowy" out.mp4
"""

import sys

from sama import EditRequest, edit_video


def main(video: str, instruction: str, output: str, model: str | None = None) -> None:
    """model: folder of a saved pipeline in place of the embedded one."""
    request = EditRequest(video, instruction, output, quality="fast", model=model)
    for event in edit_video(request):  # closing the generator stops the edit and leaves no file
        print(event.message, file=sys.stderr)
        if event.result is not None:
            result = event.result
            print(f"{result.output}: {result.frames} frames, {result.changed:.0%} of the picture changed")


if __name__ == "__main__":
    main(*sys.argv[1:])
