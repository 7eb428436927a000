"""Names of classes: their order, and those that differ in spelling only."""

import unicodedata

from flowerlib.photos import names


def test_numbers_are_ordered_by_value_and_other_names_by_the_alphabet():
    assert names.in_order(["10", "2", "0", "11", "1"]) == ["0", "1", "2", "10", "11"]
    assert names.in_order(["02", "2", "1"]) == ["1", "02", "2"]
    assert names.in_order(["rose 10", "rose 2", "10"]) == ["10", "rose 10", "rose 2"]


def test_what_differs_in_case_spaces_or_unicode_form_only_is_one_name():
    composed, decomposed = (unicodedata.normalize(form, "Ölbaum") for form in ("NFC", "NFD"))
    assert composed != decomposed
    labels = ["Daffodil", "daffodil", "daffodil", "DAFFODIL ", "sweet pea", "sweet_pea", composed, decomposed, "rose"]
    chosen = names.variants(labels)
    assert chosen == {
        **dict.fromkeys(["Daffodil", "daffodil", "DAFFODIL "], "daffodil"),
        **dict.fromkeys(["sweet pea", "sweet_pea"], "sweet pea"),
        **dict.fromkeys([composed, decomposed], min(composed, decomposed)),
    }


def test_the_sentence_names_each_group_and_the_remedy():
    chosen = names.variants(["Rose", "rose", "rose", "iris"])
    told = "Names that differ only in case, spaces or Unicode form: `Rose`, `rose`: "
    assert names.variants_note(chosen, merged=False) == (
        f"{told}they stay different classes; --merge-names makes them one."
    )
    assert names.variants_note(chosen, merged=True) == f"{told}each is one class now."
