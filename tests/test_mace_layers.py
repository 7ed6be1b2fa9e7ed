"""Maps, products and harmonics of a MACE layer against those of its library, sizes of all kinds."""

import pytest
import torch
from backbones import FRAMES, build, graph
from test_tensor_convolution import in_library_s_order

from eipnn.errors import InputError
from eipnn.representations import MACE

ATOMS = 5


SIZES = (
    {"correlation": 1},
    {"max_L": 2},
    {"correlation": 3, "max_ell": 3, "max_L": 0},
    {"correlation": 1, "max_ell": 1, "max_L": 2},  # of order 2 there is nothing
)


@pytest.fixture(params=SIZES, ids=str)
def net(request) -> MACE:
    torch.manual_seed(0)
    return build(MACE, ["C", "Si"], **{"channels": 3, "max_ell": 2} | request.param).double()


def random(irreps) -> torch.Tensor:
    """Features (N, M, C) of these irreps."""
    return torch.randn(ATOMS, sum(part.ir.dim for part in irreps), 3, dtype=torch.float64)


def test_maps_are_the_library_s(net):
    elements = torch.eye(2, dtype=torch.float64)[torch.arange(ATOMS) % 2]
    for layer in net.layers:
        for mixing in (layer.before, layer.after, layer.last):
            x = random(mixing.layer.irreps_in)
            expected = mixing.layer(in_library_s_order(x, mixing.layer.irreps_in))
            torch.testing.assert_close(in_library_s_order(mixing(x), mixing.layer.irreps_out), expected)
        x, skip = random(layer.skip.layer.irreps_in1), layer.skip.layer
        expected = skip(in_library_s_order(x, skip.irreps_in1), elements)
        torch.testing.assert_close(in_library_s_order(layer.skip(x, elements), skip.irreps_out), expected)


def test_products_are_the_library_s(net):
    elements = torch.eye(2, dtype=torch.float64)[torch.arange(ATOMS) % 2]
    for layer, block in zip(net.layers, net.products, strict=True):
        x = random(block.symmetric_contractions.irreps_in)
        expected = block.symmetric_contractions(x.mT, elements)
        found = in_library_s_order(layer.product(x, elements), block.symmetric_contractions.irreps_out)
        torch.testing.assert_close(found, expected)


def test_harmonics_are_e3nn_s(net):
    from e3nn.o3 import spherical_harmonics

    order = net.hparams["max_ell"]
    vectors = torch.randn(7, 3, dtype=torch.float64)
    expected = spherical_harmonics(list(range(order + 1)), vectors, normalize=True, normalization="component")
    found = net.spherical_harmonics(vectors / vectors.norm(dim=1, keepdim=True))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_inference_leaves_nothing_that_a_training_cannot_use(net):
    given = graph(net, FRAMES["cubic"], dtype=torch.float64)
    with torch.inference_mode():
        net(given)
    net.float()
    net(graph(net, FRAMES["cubic"])).sum().backward()


def test_a_higher_correlation_is_named():
    with pytest.raises(InputError, match="correlation must be 1, 2 or 3, not 4"):
        MACE(["Si"], correlation=4)
