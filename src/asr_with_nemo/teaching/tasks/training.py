"""Checks of the tasks of 06_training."""

from omegaconf import OmegaConf

from asr_with_nemo.teaching.tasks import Wrong, whole

_CHANNELS, _FILTERS, _KERNEL = 128, 256, 13
"""Of block B1 in configs/config.yaml; tests/teaching/test_tasks_training.py holds that they are so."""


def _whole(answer: object) -> int:
    return whole(answer, f"The answer is a whole number; this is {answer!r}.")


def task_1(answer: object) -> str:
    """Check the number of weights of block B1 with a plain convolution."""
    convolution, norm = _CHANNELS * _FILTERS * _KERNEL, 2 * _FILTERS
    squeeze = 2 * _FILTERS * (_FILTERS // 8)
    path = _CHANNELS * _FILTERS + 2 * _FILTERS
    right = convolution + norm + squeeze + path
    separable = right - convolution + _CHANNELS * _KERNEL + _CHANNELS * _FILTERS
    hints = {
        separable: "That is the block as it is, separable. Which of its layers does `separable: false` replace?",
        convolution: "That is the convolution alone. What else stands in the drawing of the block?",
        right - path: "The residual path is missing: it has a convolution and a batch norm of its own.",
        right
        - squeeze: "Squeeze-and-excite is missing: two matrices, from 256 channels to an eighth of them and back.",
        right - squeeze - path: "Squeeze-and-excite and the residual path are missing.",
        right - norm: "The batch norm after the convolution is missing: two weights per channel.",
        right - 2 * norm: "Both batch norms are missing: two weights per channel each.",
        right + _FILTERS: "Almost: these convolutions have no bias, as batch norm adds one behind them.",
        right + 2 * _FILTERS: "Almost: these convolutions have no bias, as batch norm adds one behind them.",
        right + _FILTERS * _FILTERS * _KERNEL - convolution: "B1's input has fewer channels than its output: look at "
        "the filters of the block before it.",
    }
    given = _whole(answer)
    if given in hints:
        raise Wrong(hints[given])
    if given != right:
        more = "more" if given < right else "fewer"
        raise Wrong(
            f"It has {more}. A plain convolution has inputs · outputs · kernel weights; the rest stays as it is."
        )
    return f"{right / separable:.1f} times as many as the separable block."


def task_2(answer: object) -> str:
    """Check the dilation of the blocks B1 to B4 with which an output frame sees 3 seconds."""
    given = _whole(answer)
    if given < 1:
        raise Wrong("A dilation is 1 (neighbouring frames) or more.")
    config = OmegaConf.load("configs/config.yaml")

    def seconds(dilation: int) -> float:
        field, jump = 1, 1
        for block in config.model.encoder.jasper:
            field += (block.kernel[0] - 1) * (dilation if block.residual else block.dilation[0]) * jump
            jump *= block.stride[0]
        return (field - 1) * config.model.preprocessor.window_stride + config.model.preprocessor.window_size

    if seconds(given) < 3:
        raise Wrong(f"With a dilation of {given} an output frame sees {seconds(given):.2f} s.")
    if seconds(given - 1) >= 3:
        raise Wrong(f"{seconds(given):.2f} s is more than enough; a smaller one does it too.")
    return (
        f"{seconds(given):.2f} s, with not one weight more. What it costs: between the frames it looks at, "
        "a dilated kernel skips some."
    )
