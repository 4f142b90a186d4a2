from __future__ import annotations

from streamlit.testing.v1 import AppTest

from ema_core.defenses.registry import all_defenses


def _forms() -> None:
    import streamlit as st

    from ema_core.defenses.registry import all_defenses
    from pages.widgets.strength import defense_form

    for kind in all_defenses().values():
        spec = defense_form(kind)
        st.text(f"{spec.name} {spec.strength:g}")


def test_every_defense_has_a_form_that_starts_at_its_default_and_says_what_its_options_mean() -> None:
    page = AppTest.from_function(_forms, default_timeout=60).run()
    assert not page.exception
    assert [text.value for text in page.text] == [f"{name} {kind.strength_info.default:g}" for name, kind in all_defenses().items()]
    energy = next(field for field in page.number_input if field.label == "safe-lora: energy")
    assert "identity wherever V has full row rank" in energy.help
