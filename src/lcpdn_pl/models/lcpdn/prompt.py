"""The text-vision prompt of LCPDN (CPRFL, part 1; eq. 1 to 3)."""

import math

import torch
from torch import Tensor, nn


def masked_mean(tokens: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid tokens: [B, N, D] and [B, N] -> [B, D]."""
    weight = valid.to(tokens.dtype).unsqueeze(-1)
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1)


class TextVisionPrompt(nn.Module):
    """Lets the report look at the image and condenses what it saw into one prompt.

    With Q from the report and K, V from the image:

    - A = softmax(Q W_Q (K W_K)^T / sqrt(D)), Z = A (V W_V)        (eq. 1)
    - Q* = tanh(Z) * (Q W_Q), E = mean of Q* over valid tokens     (eq. 2)
    - TextProj(E) = E W_t + b_t                                    (eq. 3)

    Args:
        text_width: Width D_T of a report token.
        image_width: Width D_I of an image token.
        width: Shared width D.
        prompt_width: Width of what the denoiser takes, d of its time embedding.
        zero_init: Start with W_t = 0 and b_t = 0, so that training starts from the plain
            denoiser's features.
    """

    def __init__(
        self,
        text_width: int,
        image_width: int,
        width: int,
        prompt_width: int,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        self.query = nn.Linear(text_width, width)
        self.key = nn.Linear(image_width, width)
        self.value = nn.Linear(image_width, width)
        self.project = nn.Linear(width, prompt_width)
        if zero_init:
            nn.init.zeros_(self.project.weight)
            nn.init.zeros_(self.project.bias)

    def forward(self, report: Tensor, valid: Tensor, image: Tensor) -> Tensor:
        """Computes the prompt.

        Args:
            report: Report tokens F_T [B, N, D_T].
            valid: [B, N], true where a report token is valid.
            image: Image tokens F_I [B, M, D_I].

        Returns:
            TextProj(E) [B, d].
        """
        query, key, value = self.query(report), self.key(image), self.value(image)
        attention = torch.softmax(query @ key.transpose(1, 2) / math.sqrt(query.shape[-1]), dim=-1)
        refined = torch.tanh(attention @ value) * query
        prompt: Tensor = self.project(masked_mean(refined, valid))
        return prompt
