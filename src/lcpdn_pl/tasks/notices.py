"""What goes wrong in training without an error, and what the user is told of it."""

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lcpdn_pl.data.problems import listing


def warn_of_dead_parameters(module: nn.Module) -> None:
    """Warns of parameters that are to be trained but that a backward pass did not reach.

    One whose gradient is zero was reached: what lies before a projection that starts at zero has
    such gradients at first.

    Args:
        module: What is trained, after a backward pass and before its gradients are cleared.
    """
    dead = [
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    if dead:
        rank_zero_warn(
            f"{len(dead)} parameters are to be trained, but the first step gave them no gradient: "
            f"{listing(dead)}. Unless later steps do, they stay as they are. Look for a "
            "torch.no_grad() or detach() behind them, or for a part that the loss does not depend "
            "on; what is not to be trained should say so with requires_grad_(False)."
        )


def warn_of_background(stage: str) -> None:
    """Warns that images with foreground were all predicted to be background.

    Args:
        stage: ``val`` or ``test``.
    """
    remedy = (
        "The first epochs may look so. If it stays, check the masks (lcpdn check-data), lower the "
        "learning rate, or take a loss that weighs foreground, such as DiceCELoss."
        if stage == "val"
        else "Compare with val/dice of the run: if that was 0 too, train it anew; if not, check "
        "that these images and reports are of the kind it was trained on (lcpdn check-data)."
    )
    rank_zero_warn(
        f"{stage}: ALL BACKGROUND. The images have foreground, but not one of their pixels was "
        f"predicted as such; a Dice above 0 is that of images without any. {remedy}"
    )
