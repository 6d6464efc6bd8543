"""Where the float conditions of `mlp` enter."""

from __future__ import annotations

import torch

from fewstep import networks


def test_features_join_x_in_the_first_layer_and_older_weights_stay():
    """With features at both places, the first layer is a linear one of (x, features)."""
    torch.manual_seed(0)
    old = networks.mlp((3,), 0, 2, width=16, depth=1)
    torch.manual_seed(0)
    new = networks.mlp((3,), 0, 2, width=16, depth=1, features_at="both")
    for name, weight in old.state_dict().items():
        assert torch.equal(new.state_dict()[name], weight)
    x, y, noise = torch.randn(5, 3), torch.randn(5, 2), torch.randn(5)
    layers = []
    for network in (old, new):
        torch.nn.init.ones_(network.outlet.weight)
        network.blocks[0].register_forward_pre_hook(lambda _, args: layers.append(args[0]))
        network(x, noise, {"features": y})
    torch.testing.assert_close(layers[1] - layers[0], y @ new.beside.weight.T)
    bare = [networks.mlp((3,), width=16, features_at=place) for place in ("blocks", "both")]
    assert bare[0].state_dict().keys() == bare[1].state_dict().keys()
