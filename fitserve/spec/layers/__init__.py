"""The allow-list of layers."""

from __future__ import annotations

from typing import Annotated

from fitserve.spec.component import Family
from fitserve.spec.layers import convolution, core, merging, noise, normalization, pooling, recurrent, shaping
from fitserve.spec.layers.layer import Layer

LAYERS: Family[Layer] = Family(
    "layer",
    "keras.layers",
    (
        core.Input,
        core.Dense,
        core.Activation,
        core.LeakyReLU,
        core.ReLU,
        core.ELU,
        core.PReLU,
        core.Softmax,
        core.Identity,
        core.Embedding,
        core.ActivityRegularization,
        noise.Dropout,
        noise.SpatialDropout1D,
        noise.SpatialDropout2D,
        noise.GaussianDropout,
        noise.AlphaDropout,
        noise.GaussianNoise,
        normalization.BatchNormalization,
        normalization.LayerNormalization,
        normalization.GroupNormalization,
        normalization.RMSNormalization,
        normalization.UnitNormalization,
        convolution.Conv1D,
        convolution.Conv2D,
        convolution.SeparableConv1D,
        convolution.SeparableConv2D,
        convolution.DepthwiseConv1D,
        convolution.DepthwiseConv2D,
        pooling.MaxPooling1D,
        pooling.MaxPooling2D,
        pooling.AveragePooling1D,
        pooling.AveragePooling2D,
        pooling.GlobalMaxPooling1D,
        pooling.GlobalMaxPooling2D,
        pooling.GlobalAveragePooling1D,
        pooling.GlobalAveragePooling2D,
        recurrent.LSTM,
        recurrent.GRU,
        recurrent.SimpleRNN,
        recurrent.Bidirectional,
        shaping.Flatten,
        shaping.Reshape,
        shaping.Permute,
        shaping.RepeatVector,
        shaping.ZeroPadding1D,
        shaping.Cropping1D,
        shaping.UpSampling1D,
        shaping.Rescaling,
        merging.Concatenate,
        merging.Add,
        merging.Subtract,
        merging.Multiply,
        merging.Average,
        merging.Maximum,
        merging.Minimum,
    ),
)
AnyLayer = Annotated[Layer, LAYERS]
