"""Every term compared with values by hand, with the formula of its source, and with finite differences."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from impasto import losses

CONTENT = [*losses.CONTENT_TERMS, "relative", "normalized"]
STYLE = [*losses.STYLE_TERMS, "relative", "bounded"]
SIZES = [(4, 5), (3, 7)]

# Three channels, two positions: C = 3, M = 2.
OURS = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]]).double().view(1, 3, 1, 2)
THEIRS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).double().view(1, 3, 1, 2)


def activations(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# By hand ------------------------------------------------------------------------------------------------------------

# OURS - THEIRS = [[0, 2], [3, -1], [-1, 0]]; squares 0 + 4 + 9 + 1 + 1 + 0 = 15; THEIRS' squares 1 + 1 + 1 + 1 = 4
# Normalised, OURS = [[-1, 1], [1, -1], [-1, 1]] and THEIRS = [[1, -1], [-1, 1], [0, 0]]: squares 4 + 4 + 4 + 4 + 1 + 1
# = 18, mean 3, halved. With variances of 1/4 and more, EPSILON changes it by less than 1e-4.
CONTENT_BY_HAND = {
    "half-sum": 15 / 2,
    "mean": 15 / 6,
    "quarter-mean": 15 / 24,
    "relative": 15 / 4,
    "normalized": 3 / 2,
}

# OURS   F F^T = [[5, 3, 2], [3, 9, 0], [2, 0, 1]]
# THEIRS F F^T = [[1, 0, 1], [0, 1, 1], [1, 1, 2]], its squares 1 + 1 + 1 + 1 + 1 + 1 + 4 = 10
# difference = [[4, 3, 1], [3, 8, -1], [1, -1, -1]], squares 16 + 9 + 1 + 9 + 64 + 1 + 1 + 1 + 1 = 103
STYLE_BY_HAND = {
    "gatys": 103 / 144,  # 4 C^2 M^2 = 4 * 9 * 4
    "mean": 103 / 36,  # each Gram over M: 103 / 4; mean over 9
    "blog": 103 / 9,  # mean over 9
    "five": 103 / 54,  # mean over 9, over C H W = 6
    "owl": 103 / 324,  # each Gram over C H W: 103 / 36; mean over 9
    "relative": 103 / 10,
    "bounded": 103 / 143,  # OURS' squares 25 + 9 + 4 + 9 + 81 + 4 + 1 = 133, THEIRS' 10
}


def test_the_hand_worked_values_cover_every_term() -> None:
    assert set(CONTENT_BY_HAND) == set(CONTENT)
    assert set(STYLE_BY_HAND) == set(STYLE)


@pytest.mark.parametrize("term", CONTENT)
def test_content_by_hand(term: str) -> None:
    assert float(losses.content_loss(OURS, THEIRS, term)) == pytest.approx(
        CONTENT_BY_HAND[term], rel=1e-4 if term == "normalized" else 1e-12
    )


@pytest.mark.parametrize("term", STYLE)
def test_style_by_hand(term: str) -> None:
    loss = losses.style_loss(losses.gram(OURS), losses.gram(THEIRS), 2, term)
    assert float(loss) == pytest.approx(STYLE_BY_HAND[term], rel=1e-12)


def test_gram_by_hand() -> None:
    expected = torch.tensor([[5.0, 3, 2], [3, 9, 0], [2, 0, 1]]).double() / 2  # F F^T over two positions
    torch.testing.assert_close(losses.gram(OURS), expected[None], rtol=1e-12, atol=0)


def test_masked_gram_by_hand() -> None:
    # The mask (1, 1/2) makes F [[1, 1], [3, 0], [0, 1/2]], so that F F^T = [[2, 3, .5], [3, 9, 0], [.5, 0, .25]];
    # over the sum of the mask's squares, 1 + 1/4 = 5/4.
    mask = torch.tensor([1.0, 0.5]).double().view(1, 1, 1, 2)
    expected = torch.tensor([[1.6, 2.4, 0.4], [2.4, 7.2, 0.0], [0.4, 0.0, 0.2]], dtype=torch.float64)
    torch.testing.assert_close(losses.gram(OURS, mask), expected[None], rtol=1e-12, atol=1e-12)


def test_total_variation_by_hand() -> None:
    # down 2^2 + 0 + 3^2 = 13, across 1 + 2^2 + 1 + 1 = 7: 20 over six pixels
    image = torch.tensor([[0.0, 1.0, 3.0], [2.0, 1.0, 0.0]]).double().view(1, 1, 2, 3)
    assert float(losses.total_variation(image)) == pytest.approx(20 / 6, rel=1e-12)
    flat = torch.full_like(image, 0.7)  # a second channel without differences: 20 over twelve values
    assert float(losses.total_variation(torch.cat([image, flat], 1))) == pytest.approx(20 / 12, rel=1e-12)


@pytest.mark.parametrize(("shape", "expected"), [((1, 1, 1, 1), 0.0), ((1, 1, 1, 3), 5 / 3), ((1, 1, 3, 1), 5 / 3)])
def test_total_variation_of_a_line(shape: tuple[int, ...], expected: float) -> None:
    image = torch.tensor([0.0, 1.0, 3.0])[: shape[2] * shape[3]].view(shape)  # 1^2 + 2^2 over three
    assert float(losses.total_variation(image)) == pytest.approx(expected)


# Formulas of the articles: from (1, C, H, W) of picture and style to a number -----------------------------------------


def equation_content(ours: Tensor, theirs: Tensor) -> Tensor:
    """PyTorchBlog, equation 1."""
    difference = ours.flatten(2)[0] - theirs.flatten(2)[0]
    return 0.5 * sum(difference[i, j] ** 2 for i in range(difference.shape[0]) for j in range(difference.shape[1]))


def blog_content(ours: Tensor, theirs: Tensor) -> Tensor:
    """PyTorchBlog, code: MSELoss."""
    return nn.MSELoss()(ours, theirs)


def course_content(ours: Tensor, theirs: Tensor) -> Tensor:
    """TensorFlowCourse, on NHWC; with the content's activations, as its text says."""
    a_c, a_g = theirs.permute(0, 2, 3, 1), ours.permute(0, 2, 3, 1)
    m, n_h, n_w, n_c = a_g.shape
    a_c_unrolled, a_g_unrolled = a_c.reshape(m, -1, n_c), a_g.reshape(m, -1, n_c)
    return torch.sum(torch.square(torch.subtract(a_c_unrolled, a_g_unrolled))) / (4 * n_w * n_c * n_h)


def owl_content(ours: Tensor, theirs: Tensor) -> Tensor:
    """OwlBook, on NHWC."""
    response, target = ours.permute(0, 2, 3, 1), theirs.permute(0, 2, 3, 1)
    _, h, w, feature = target.shape
    return ((response - target) ** 2).sum() / float(feature * h * w)


def equation_style(ours: Tensor, theirs: Tensor) -> Tensor:
    """PyTorchBlog, the two equations of G and of L_l: N filters, M positions."""
    f, s = ours.flatten(2)[0], theirs.flatten(2)[0]
    n, m = f.shape
    return ((f @ f.T - s @ s.T) ** 2).sum() / (4 * n**2 * m**2)


def keras_style(ours: Tensor, theirs: Tensor) -> Tensor:
    """KerasDescent, on NHWC: X^T X over the positions, mean."""

    def gram(x: Tensor) -> Tensor:
        _, n_rows, n_cols, n_channels = x.shape
        x = x.reshape(n_rows * n_cols, n_channels)
        return x.T @ x / (n_rows * n_cols)

    return ((gram(theirs.permute(0, 2, 3, 1)) - gram(ours.permute(0, 2, 3, 1))) ** 2).mean()


def blog_style(ours: Tensor, theirs: Tensor) -> Tensor:
    """PyTorchBlog, code: the Gram matrix is a plain sum, MSELoss."""

    def gram_matrix(tensor: Tensor) -> Tensor:
        x = torch.squeeze(tensor)
        x = x.reshape(x.shape[0], -1)
        return torch.mm(x, x.T)

    return nn.MSELoss()(gram_matrix(ours), gram_matrix(theirs))


def course_style(ours: Tensor, theirs: Tensor) -> Tensor:
    """TensorFlowCourse, on NHWC."""
    a_s, a_g = theirs.permute(0, 2, 3, 1), ours.permute(0, 2, 3, 1)
    _, n_h, n_w, n_c = a_g.shape
    a_s, a_g = a_s.reshape(-1, n_c).T, a_g.reshape(-1, n_c).T
    return torch.sum(torch.square(a_s @ a_s.T - a_g @ a_g.T)) / ((2 * n_w * n_h * n_c) ** 2)


def five_style(ours: Tensor, theirs: Tensor) -> Tensor:
    """PyTorchFive: mse of plain Gram matrices over (c h w)."""
    _, c, h, w = ours.size()

    def get_gram_matrix(x: Tensor) -> Tensor:
        features = x.view(c, -1)
        return features @ features.t()

    return nn.functional.mse_loss(get_gram_matrix(ours), get_gram_matrix(theirs)) / (c * h * w)


def owl_style(ours: Tensor, theirs: Tensor) -> Tensor:
    """OwlBook, on NHWC: F^T F over (C H W), sum over C^2."""

    def gram(x: Tensor) -> Tensor:
        _, h, w, feature = x.shape
        ff = x.reshape(h * w, feature)
        return ff.T @ ff / float(feature * h * w)

    response, target = gram(ours.permute(0, 2, 3, 1)), gram(theirs.permute(0, 2, 3, 1))
    return ((response - target) ** 2).sum() / float(target.shape[0] * target.shape[1])


def relative_style(ours: Tensor, theirs: Tensor) -> Tensor:
    g, s = (torch.einsum("cp,dp->cd", x.flatten(2)[0], x.flatten(2)[0]) / x[0, 0].numel() for x in (ours, theirs))
    return torch.dist(g, s) ** 2 / torch.norm(s) ** 2


def bounded_style(ours: Tensor, theirs: Tensor) -> Tensor:
    g, s = (torch.einsum("cp,dp->cd", x.flatten(2)[0], x.flatten(2)[0]) / x[0, 0].numel() for x in (ours, theirs))
    return torch.dist(g, s) ** 2 / (torch.norm(g) ** 2 + torch.norm(s) ** 2)


def normalized_content(ours: Tensor, theirs: Tensor) -> Tensor:
    return nn.functional.mse_loss(nn.functional.instance_norm(ours), nn.functional.instance_norm(theirs)) / 2


Formula = Callable[[Tensor, Tensor], Tensor]

CONTENT_SOURCES: list[tuple[str, Formula]] = [
    ("half-sum", equation_content),
    ("mean", blog_content),
    ("mean", owl_content),
    ("quarter-mean", course_content),
    ("relative", lambda ours, theirs: torch.dist(ours, theirs) ** 2 / torch.norm(theirs) ** 2),
    ("normalized", normalized_content),
]
STYLE_SOURCES: list[tuple[str, Formula]] = [
    ("gatys", equation_style),
    ("gatys", course_style),
    ("mean", keras_style),
    ("blog", blog_style),
    ("five", five_style),
    ("owl", owl_style),
    ("relative", relative_style),
    ("bounded", bounded_style),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("term", "formula"), CONTENT_SOURCES)
def test_content_follows_the_formula_of_its_source(term: str, formula: Formula, size: tuple[int, int]) -> None:
    ours, theirs = activations(1, 6, *size, seed=1), activations(1, 6, *size, seed=2)
    assert float(losses.content_loss(ours, theirs, term)) == pytest.approx(float(formula(ours, theirs)), rel=1e-12)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("term", "formula"), STYLE_SOURCES)
def test_style_follows_the_formula_of_its_source(term: str, formula: Formula, size: tuple[int, int]) -> None:
    ours, theirs = activations(1, 6, *size, seed=1), activations(1, 6, *size, seed=2)
    loss = losses.style_loss(losses.gram(ours), losses.gram(theirs), size[0] * size[1], term)
    assert float(loss) == pytest.approx(float(formula(ours, theirs)), rel=1e-12)


@pytest.mark.parametrize(("term", "formula"), [("mean", keras_style), ("owl", owl_style)])
def test_a_style_of_another_size_in_normalised_terms(term: str, formula: Formula) -> None:
    ours, theirs = activations(1, 6, 4, 5, seed=1), activations(1, 6, 7, 9, seed=2)
    loss = losses.style_loss(losses.gram(ours), losses.gram(theirs), 20, term)
    assert float(loss) == pytest.approx(float(formula(ours, theirs)), rel=1e-12)


@pytest.mark.parametrize(("term", "formula"), [("gatys", equation_style), ("blog", blog_style), ("five", five_style)])
def test_a_style_is_weighted_as_if_it_had_the_picture_s_size(term: str, formula: Formula) -> None:
    ours, small = activations(1, 6, 4, 6, seed=1), activations(1, 6, 4, 3, seed=2)
    loss = losses.style_loss(losses.gram(ours), losses.gram(small), 24, term)
    twice = torch.cat([small, small], dim=3)  # as large as ours, with the same Gram matrix per position
    assert float(loss) == pytest.approx(float(formula(ours, twice)), rel=1e-12)


# Gradients ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("term", CONTENT)
def test_content_gradcheck(term: str) -> None:
    ours, theirs = activations(2, 3, 2, 4, seed=3).requires_grad_(), activations(2, 3, 2, 4, seed=4)
    assert torch.autograd.gradcheck(lambda x: losses.content_loss(x, theirs, term), ours)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("term", STYLE)
def test_style_gradcheck(term: str, masked: bool) -> None:
    ours, target = activations(2, 3, 2, 4, seed=3).requires_grad_(), losses.gram(activations(1, 3, 3, 3, seed=4))
    mask = activations(1, 1, 2, 4, seed=5).sigmoid() if masked else None
    assert torch.autograd.gradcheck(lambda x: losses.style_loss(losses.gram(x, mask), target, 8, term), ours)


@pytest.mark.parametrize("masked", [False, True])
def test_gram_gradcheck(masked: bool) -> None:
    mask = activations(1, 1, 2, 4, seed=5).sigmoid() if masked else None
    ours = activations(2, 3, 2, 4, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: losses.gram(x, mask), ours)


@pytest.mark.parametrize("function", [losses.total_variation, lambda image: losses.lattice(image, 2)])
def test_image_gradcheck(function: Callable[[Tensor], Tensor]) -> None:
    assert torch.autograd.gradcheck(function, activations(2, 3, 4, 3, seed=3).requires_grad_())


def test_content_gradient_of_pytorch_blog() -> None:
    """T - C where T > 0, else 0: the derivative with respect to the input of the ReLU with output T."""
    before = activations(1, 4, 3, 5, seed=6).requires_grad_()
    target = activations(1, 4, 3, 5, seed=7).relu()
    features = before.relu()
    (found,) = torch.autograd.grad(losses.content_loss(features, target, "half-sum"), before)
    expected = torch.where(features > 0, features - target, 0.0)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-14)
    # With respect to T, the output of the ReLU, the two cases are the same.
    (after,) = torch.autograd.grad(losses.content_loss(features, target, "half-sum"), features)
    torch.testing.assert_close(after, (features - target).detach(), rtol=1e-12, atol=1e-14)


def test_style_gradient_of_pytorch_blog() -> None:
    """1 / (N^2 M^2) (T^T (G - S)) where T > 0, else 0, again through the ReLU.

    As printed, with the indices i, j, it is wrong by a transposition: T is N x M and G - S is N x N, so T^T (G - S)
    is M x N, positions by filters, and its entry for filter i at position j is (j, i). Gatys2016, eq. 6 has
    ``_ji``; the article lost it. Even where N = M, so that the shapes would fit, the printed form is not the gradient.
    """
    n, height, width = 6, 2, 3
    m = height * width
    before = activations(1, n, height, width, seed=8).requires_grad_()
    target = activations(1, n, height, width, seed=9).relu()
    features = before.relu()
    loss = losses.style_loss(losses.gram(features), losses.gram(target), m, "gatys")
    found = torch.autograd.grad(loss, before)[0].view(n, m)
    t, s = features.detach().view(n, m), target.view(n, m)
    printed = t.T @ (t @ t.T - s @ s.T) / (n**2 * m**2)
    torch.testing.assert_close(found, torch.where(t > 0, printed.T, 0.0), rtol=1e-10, atol=1e-14)
    assert not torch.allclose(found, torch.where(t > 0, printed, 0.0), rtol=1e-2, atol=1e-4)


# Shapes, batches and masks ------------------------------------------------------------------------------------------


def test_shapes() -> None:
    features = activations(2, 5, 3, 4, seed=10)
    mask = torch.ones(1, 1, 3, 4).double()
    assert losses.gram(features).shape == (2, 5, 5)
    assert losses.gram(features, mask).shape == (2, 5, 5)
    assert losses.content_loss(features, features + 1, "mean").shape == ()
    assert losses.style_loss(losses.gram(features), losses.gram(features[:1]), 12, "mean").shape == ()
    assert losses.total_variation(features).shape == ()


@pytest.mark.parametrize("term", CONTENT)
def test_content_of_a_batch_is_the_mean_of_its_parts(term: str) -> None:
    ours = activations(2, 3, 4, 5, seed=11)
    theirs = activations(2, 3, 4, 5, seed=12) * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    parts = [float(losses.content_loss(ours[i : i + 1], theirs[i : i + 1], term)) for i in range(2)]
    assert float(losses.content_loss(ours, theirs, term)) == pytest.approx(sum(parts) / 2, rel=1e-12)


@pytest.mark.parametrize("term", STYLE)
def test_style_of_a_batch_is_the_mean_of_its_parts(term: str) -> None:
    grams = losses.gram(activations(2, 3, 4, 5, seed=11) * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1))
    target = losses.gram(activations(1, 3, 4, 5, seed=12))
    parts = [float(losses.style_loss(grams[i : i + 1], target, 20, term)) for i in range(2)]
    assert float(losses.style_loss(grams, target, 20, term)) == pytest.approx(sum(parts) / 2, rel=1e-12)


def test_lattice_by_hand() -> None:
    """One pixel of each 2 x 2 cell is 1: the values 1, 0, 0, 0 have the variance 3/16."""
    grid = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    grid[..., ::2, ::2] = 1
    assert float(losses.lattice(grid, 2)) == pytest.approx(3 / 16, rel=1e-12)
    both = torch.cat([grid, torch.ones_like(grid)], 1)
    assert float(losses.lattice(both, 2)) == pytest.approx(3 / 32, rel=1e-12)
    assert float(losses.lattice(both.repeat(3, 1, 1, 1), 2)) == pytest.approx(3 / 32, rel=1e-12)


def test_lattice_ignores_strokes() -> None:
    """Stripes of another period change their phase from cell to cell and average out."""
    x = torch.arange(96, dtype=torch.float64)
    strokes = (torch.sin(2 * torch.pi * x / 5.3)[None] * torch.ones(96, 1))[None, None]
    grid = (torch.sin(2 * torch.pi * x / 4 + 0.3)[None] * torch.ones(96, 1))[None, None]
    assert float(losses.lattice(strokes)) < 0.1 * float(losses.lattice(grid))


def test_gram_and_total_variation_of_a_batch() -> None:
    batch = activations(2, 3, 4, 5, seed=11) * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    mask = activations(1, 1, 4, 5, seed=13).sigmoid()
    for one in (None, mask):
        parts = torch.cat([losses.gram(batch[:1], one), losses.gram(batch[1:], one)])
        torch.testing.assert_close(losses.gram(batch, one), parts, rtol=1e-12, atol=0)
    variations = [float(losses.total_variation(part)) for part in (batch[:1], batch[1:])]
    assert float(losses.total_variation(batch)) == pytest.approx(sum(variations) / 2, rel=1e-12)


def test_a_hard_mask_is_a_crop() -> None:
    features = activations(1, 3, 4, 6, seed=14)
    mask = torch.zeros(1, 1, 4, 6).double()
    mask[..., 2:] = 1
    torch.testing.assert_close(losses.gram(features, mask), losses.gram(features[..., 2:]), rtol=1e-12, atol=1e-14)


def test_an_empty_mask_gives_0_and_no_nan() -> None:
    assert losses.gram(OURS, torch.zeros(1, 1, 1, 2).double()).tolist() == torch.zeros(1, 3, 3).tolist()


def test_normalized_content_ignores_contrast_and_brightness() -> None:
    ours = activations(1, 6, 4, 5, seed=1)
    assert float(losses.content_loss(3 * ours + 2, ours, "normalized")) == pytest.approx(0, abs=1e-5)
    assert float(losses.content_loss(-ours, ours, "normalized")) == pytest.approx(2, rel=1e-4)
    even = torch.ones_like(ours)
    assert float(losses.content_loss(even, ours, "normalized")) == pytest.approx(0.5, rel=1e-4)
    assert float(losses.content_loss(even, even, "normalized")) == 0


def test_bounded_style_lies_between_0_and_1() -> None:
    gram, nothing = losses.gram(OURS), torch.zeros(1, 3, 3, dtype=torch.float64)
    assert float(losses.style_loss(gram, nothing, 2, "bounded")) == 1
    assert float(losses.style_loss(nothing, gram, 2, "bounded")) == 1
    assert float(losses.style_loss(gram, gram, 2, "bounded")) == 0
    assert float(losses.style_loss(nothing, nothing, 2, "bounded")) == 0


def test_relative_of_nothing_is_finite() -> None:
    zero = torch.zeros_like(OURS)
    assert torch.isfinite(losses.content_loss(OURS, zero, "relative"))
    assert torch.isfinite(losses.style_loss(losses.gram(OURS), losses.gram(zero), 2, "relative"))


@pytest.mark.parametrize("tile", [(0, 0, 5, 7), (0, 0, 2, 3), (1, 2, 4, 7), (4, 6, 5, 7)])
def test_variation_of_a_tile_and_its_derivative(tile: tuple[int, int, int, int]) -> None:
    image = activations(2, 3, 5, 7, seed=20).requires_grad_()
    (expected,) = torch.autograd.grad(losses.variation(image, *tile), image)
    found = torch.ones_like(image)
    losses.add_variation_gradient(found, image.detach(), 0.5, *tile)
    torch.testing.assert_close(found, 1 + 0.5 * expected)


def test_the_variations_of_tiles_add_up() -> None:
    image = activations(1, 3, 5, 7, seed=21)
    parts = [losses.variation(image, t, left, b, r) for t, b in ((0, 2), (2, 5)) for left, r in ((0, 4), (4, 7))]
    torch.testing.assert_close(torch.stack(parts).sum() / image.numel(), losses.total_variation(image))


def test_gram_sums_add_up_and_survive_bfloat16() -> None:
    features = activations(2, 6, 9, 8, seed=22)
    parts = losses.gram_sum(features[..., :3]) + losses.gram_sum(features[..., 3:])
    torch.testing.assert_close(parts, losses.gram_sum(features))
    rounded = features.bfloat16()
    coarse = losses.gram_sum(rounded)
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, losses.gram_sum(rounded.float()), rtol=0.02, atol=0.1)
