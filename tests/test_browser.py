"""The driver of the browser: it sees requests, errors, keys and dropped files."""

PAGE = """<!doctype html><html><head><title>t</title><link rel="icon" href="data:,"></head><body>
<input id="field"><div id="drop" style="height:90px"></div><script>
drop.ondragover = event => event.preventDefault();
drop.ondrop = event => { event.preventDefault(); drop.title = event.dataTransfer.files[0].name; };
</script></body></html>"""

MISSING = "const image = new Image(); image.onerror = () => done(1); image.src = 'missing.png';"


def test_a_page_notes_requests_errors_keys_and_files(page, tmp_path):
    path = tmp_path / "a page.html"
    path.write_text(PAGE)
    page.set_window(390, 844)
    page.set_scheme("dark")
    page.open(path.as_uri())
    assert (page.requests, page.errors) == ([path.as_uri()], [])
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert page.evaluate("innerWidth") == 390
    page.click("#field")
    page.press("a")
    page.press("7")
    page.press("Backspace")
    assert page.evaluate("field.value") == "a"
    file = tmp_path / "dropped.txt"
    file.write_text("x")
    page.drop_files("#drop", [file])
    assert page.wait_for("drop.title") == "dropped.txt"
    assert page.picture(tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert page.pdf(tmp_path / "p.pdf").read_bytes().startswith(b"%PDF")
    page.evaluate("console.error('bad', 1)")
    page.evaluate(f"new Promise(done => {{ {MISSING} }})")
    assert page.errors[0] == "bad 1" and len(page.requests) == 2
    page.open(path.as_uri())
    assert page.errors == []
