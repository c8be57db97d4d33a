"""The Accuracy page shows predicted beside measured memory, of what each run tells."""


def test_every_published_run_is_shown_with_what_it_tells_of_its_memory(page):
    app = page("accuracy")
    shown = next(table.value for table in app.table if "Predicted" in table.value.columns)
    assert {"allocated", "used"} <= {*shown["Memory"]}
    assert (shown[shown["Memory"] == "used"]["Device"] == "CPU").any()
    assert not (shown["Measured"] == "").any()
    assert not (shown["Error"] == "").any()
