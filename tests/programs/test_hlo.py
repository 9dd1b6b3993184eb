"""Costs read from HLO, against numbers by hand and XLA's own count."""

import jax
import jax.numpy as jnp
import pytest

from agentrl.programs import hlo

TEXT = """\
HloModule jit_f

%fused_computation (param_0: f32[4,8,16], param_1: s32[]) -> f32[8,16] {
  %param_0 = f32[4,8,16]{2,1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %constant.0 = s32[] constant(0)
  %slice.1 = f32[1,8,16]{2,1,0} dynamic-slice(%param_0, %param_1, %constant.0, %constant.0)
  ROOT %bitcast.1 = f32[8,16]{1,0} bitcast(%slice.1)
}

%fused_computation.1 (param_0.1: f32[32,16], param_1.1: f32[1,16], param_2.1: s32[]) -> f32[32,16] {
  %param_0.1 = f32[32,16]{1,0} parameter(0)
  %param_1.1 = f32[1,16]{1,0} parameter(1)
  %param_2.1 = s32[] parameter(2)
  ROOT %update.1 = f32[32,16]{1,0} dynamic-update-slice(%param_0.1, %param_1.1, %param_2.1, %param_2.1)
}

%body (arg.1: (s32[], f32[4,8,16])) -> (s32[], f32[4,8,16]) {
  %arg.1 = (s32[], f32[4,8,16]{2,1,0}) parameter(0)
  %get.0 = s32[] get-tuple-element(%arg.1), index=0
  %get.1 = f32[4,8,16]{2,1,0} get-tuple-element(%arg.1), index=1
  %fusion.1 = f32[8,16]{1,0:T(8,128)S(1)} fusion(%get.1, %get.0), kind=kLoop, calls=%fused_computation
  %dot.1 = f32[8,8]{1,0:T(8,128)S(1)} dot(%fusion.1, %fusion.1), lhs_contracting_dims={1}, rhs_contracting_dims={1}
  %reduced.1 = f32[8,8]{1,0:T(8,128)S(1)} all-reduce(%dot.1), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %tuple.1 = (s32[], f32[4,8,16]{2,1,0}) tuple(%get.0, %get.1)
}

ENTRY %main (p.0: (s32[], f32[4,8,16]), p.1: f32[32,16], p.2: f32[1,16], p.3: s32[]) -> f32[32,16] {
  %p.0 = (s32[], f32[4,8,16]{2,1,0}) parameter(0)
  %p.1 = f32[32,16]{1,0} parameter(1)
  %p.2 = f32[1,16]{1,0} parameter(2)
  %p.3 = s32[] parameter(3)
  %while.1 = (s32[], f32[4,8,16]{2,1,0}) while(%p.0), condition=%cond, body=%body, BACKEND
  ROOT %fusion.2 = f32[32,16]{1,0} fusion(%p.1, %p.2, %p.3), kind=kLoop, calls=%fused_computation.1
}
"""  # noqa: E501
TRIP = hlo.Cost(
    flops=2 * 8 * 8 * 16,
    bytes=8 * 16 * 4 + 4,  # one slice and its index; what is on the chip is free
    sent=2 * 8 * 8 * 4 * 3 / 4,
)
OUTSIDE = hlo.Cost(bytes=2 * 16 * 4 + 4)  # the update and its position, not the 32 rows


def test_loops_count_as_often_as_they_run():
    known = TEXT.replace("BACKEND", 'backend_config={"known_trip_count":{"n":"4"}}')
    assert hlo.analyze(known) == hlo.ProgramCost(TRIP * 4 + OUTSIDE)
    assert hlo.analyze(TEXT.replace("BACKEND", "x={}")) == hlo.ProgramCost(
        OUTSIDE, TRIP
    )
    assert hlo.analyze(known).of(7) == hlo.analyze(known).once


def test_a_copy_within_a_fusion_reads_what_is_sliced_from_it():
    known = TEXT.replace("BACKEND", 'backend_config={"known_trip_count":{"n":"4"}}')
    head, body = known.split("%fused_computation (", 1)
    nested = """\
%copied (input: f32[4,8,16]) -> f32[4,8,16] {
  %input = f32[4,8,16]{2,1,0} parameter(0)
  ROOT %copy.1 = f32[4,8,16]{2,1,0:T(8,128)} copy(%input)
}

"""
    line = "  %moved = f32[4,8,16]{2,1,0} fusion(%param_0), kind=kLoop, calls=%copied\n"
    body = body.replace("dynamic-slice(%param_0", "dynamic-slice(%moved", 1)
    body = body.replace("  %constant.0", line + "  %constant.0", 1)
    text = f"{head}{nested}%fused_computation ({body}"
    assert hlo.analyze(text) == hlo.ProgramCost(TRIP * 4 + OUTSIDE)


def test_a_scan_counts_by_its_condition_where_the_compiler_left_no_note():
    condition = """\
%cond (arg.2: (s32[], f32[4,8,16])) -> pred[] {
  %arg.2 = (s32[], f32[4,8,16]{2,1,0}) parameter(0)
  %counter = s32[] get-tuple-element(%arg.2), index=0
  %limit = s32[]{:T(128)} constant(4)
  ROOT %less = pred[] compare(%counter, %limit), direction=LT
}

ENTRY"""
    text = TEXT.replace("BACKEND", "x={}").replace("ENTRY", condition)
    less = hlo.Cost(bytes=4 + 4 + 1)  # the comparison itself
    assert hlo.analyze(text) == hlo.ProgramCost((TRIP + less) * 4 + OUTSIDE)
    by_data = text.replace(
        "%limit = s32[]{:T(128)} constant(4)",
        "%limit = s32[] get-tuple-element(%arg.2), index=0",
    )
    assert hlo.analyze(by_data) == hlo.ProgramCost(OUTSIDE, TRIP + less)


def test_a_batched_product_as_a_convolution_counts_once():
    line = (
        "HloModule m\n\nENTRY %main (a: f32[16,8,32], b: f32[16,32,4]) -> f32[16,8,4] {\n"
        "  %a = f32[16,8,32]{2,1,0} parameter(0)\n"
        "  %b = f32[16,32,4]{2,1,0} parameter(1)\n"
        "  ROOT %c = f32[16,8,4]{2,1,0} convolution(%a, %b), window={size=16 stride=15 "
        "pad=0_0 lhs_dilate=16}, dim_labels=0bf_0io->0bf\n}\n"
    )
    assert hlo.analyze(line).once.flops == 2 * 16 * 8 * 32 * 4


def f(x, layers):
    def layer(x, w):
        return jnp.tanh(x @ w), None

    x, _ = jax.lax.scan(layer, x, layers)
    return jnp.sum(jnp.sin(x))


@pytest.mark.parametrize("depth", [2, 9])
def test_with_each_body_once_it_is_what_xla_counts(depth):
    x, layers = jnp.ones((64, 128)), jnp.ones((depth, 128, 128))
    compiled = jax.jit(jax.grad(f, argnums=1)).lower(x, layers).compile()
    found = hlo.analyze(compiled.as_text(), loops_once=True).of(1)
    counted = compiled.cost_analysis()
    assert found.flops == pytest.approx(counted["flops"], rel=0.1)
    assert found.bytes == pytest.approx(counted["bytes accessed"], rel=0.25)
    # With its trips: a product for each layer forward, two backward.
    assert hlo.analyze(compiled.as_text()).of(1).flops == pytest.approx(
        3 * depth * 2 * 64 * 128 * 128, rel=0.1
    )
