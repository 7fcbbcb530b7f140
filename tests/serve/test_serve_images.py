"""Images as queries, and images that are shown, asked in this process."""

from __future__ import annotations

import io
import struct
import time
import zlib

import pytest

from sdc.extract.store import FeatureStore
from sdc.retrieve.index.index import Index
from sdc.retrieve.search import search
from sdc.retrieve.search_settings import SearchSettings
from sdc.serve.settings import MOST_PIXELS

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")


@pytest.fixture(scope="module")
def gallery(pictures, asked):
    """The service over images, its backbone loaded."""
    with asked(pictures, images=pictures / "images") as client:
        until = time.monotonic() + 300
        while client.get("/healthz").json()["queries"]["images"] == "loading" and time.monotonic() < until:
            time.sleep(0.05)
        yield client


def test_an_image_has_the_neighbours_that_sdc_search_finds(pictures, gallery):
    ids = Index.open(pictures / "db.bin").database.names()
    path = pictures / "images" / ids[7]
    expected = search(SearchSettings(pictures / "db.bin", images=(path,), k=5))["results"][0]["neighbors"]
    response = gallery.post("/search?k=5", content=path.read_bytes(), headers={"content-type": "image/png"})
    (result,) = response.json()["results"]
    assert result["query"] == "image"
    assert [result][0]["neighbors"] == expected
    assert expected[0]["id"] == ids[7]
    within = gallery.post(
        "/search?radius=0&only_label=0&only_label=1", content=path.read_bytes(), headers={"content-type": "image/png"}
    )
    assert {near["distance"] for near in within.json()["results"][0]["neighbors"]} <= {0}


def image_bytes(size=(8, 8), kind="PNG", mode="1"):
    from PIL import Image

    out = io.BytesIO()
    Image.new(mode, size).save(out, kind)
    return out.getvalue()


def tiled(side, tile):
    """A TIFF of 8 bits whose one tile is larger than itself, compressed."""
    data = zlib.compress(bytes(1 << 20))
    tags = {
        256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8, 325: len(data),
    }  # fmt: skip
    listed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    return head + data + struct.pack("<H", len(tags)) + listed + bytes(4)


def test_what_is_no_image_or_too_large_a_one_is_refused(pictures, gallery, refusal):
    def post(content, address="/search"):
        return gallery.post(address, content=content, headers={"content-type": "image/png"})

    side = int(MOST_PIXELS**0.5) + 1
    bomb = image_bytes((side, side))
    assert len(bomb) < 100_000
    assert "at most 40 million: scale" in refusal(post(bomb), 422)
    bigger = image_bytes((side * 2, side * 2))
    assert "million" in refusal(post(bigger), 422)
    for kind, mode in (("PNG", "RGBA"), ("PNG", "I;16"), ("WEBP", "RGB")):  # they take more memory a pixel
        large = image_bytes((5000, 4500), kind, mode)
        assert "at most 20 million for its kind" in refusal(post(large), 422)
    assert "expected at most 65536" in refusal(post(image_bytes((1, 100_000))), 422)  # so do rows
    assert "its tiles have too many pixels" in refusal(post(tiled(8, 30_000)), 422)
    real = next((pictures / "images").rglob("*.png")).read_bytes()
    for content in (b"", b"abc", real[:200], image_bytes(kind="EPS", mode="RGB")):
        assert "the image cannot be read" in refusal(post(content), 422)
    good = image_bytes()
    for parameters in (
        "k=0",
        "k=x",
        "k=1&k=2",
        "kk=1",
        "radius=-1",
        "k=1&radius=1",
        "only_label=77",
        "k=" + "9" * 5000,
    ):
        refusal(post(good, f"/search?{parameters}"), 422)
    for content in (good, tiled(64, 64)):
        assert post(content, "/search?k=3").status_code == 200


def test_images_cannot_be_searched_where_features_were_imported(folder, asked, refusal):
    with asked(folder) as client:
        response = client.post("/search", content=image_bytes(), headers={"content-type": "image/png"})
        assert "imported" in refusal(response, 501)


def test_a_backbone_that_is_not_at_hand_leaves_the_rest_at_work(pictures, caplog, asked, refusal):
    with asked(pictures, weights="random:3") as client:
        vector = FeatureStore(pictures / "feats.h5").features[0].tolist()
        until = time.monotonic() + 300
        while client.get("/healthz").json()["queries"]["images"] == "loading" and time.monotonic() < until:
            time.sleep(0.05)
        response = client.post("/search", content=image_bytes(), headers={"content-type": "image/png"})
        assert "not at hand" in refusal(response, 501)
        assert "images cannot be searched: the weights of efficientnet_lite0" in caplog.text
        assert client.get("/healthz").json()["queries"] == {"vectors": 1280, "images": "unavailable"}
        assert client.post("/search", json={"vector": vector}).status_code == 200


def test_images_are_shown_by_their_ids_and_nothing_else_is(pictures, gallery, tmp_path, refusal):
    folder = pictures / "images"
    name = Index.open(pictures / "db.bin").database.names()[3]
    response = gallery.get(f"/images/{name}")
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.content == (folder / name).read_bytes()
    (folder / "extra.png").write_bytes(image_bytes())  # there, but not in the index
    for wrong in (
        "extra.png", "../feats.h5", "%2e%2e/feats.h5", "..%2ffeats.h5", "/etc/passwd", "%2fetc%2fpasswd", "", ".",
        f"x%2f..%2f{name}", f"class 5%2f..%2f{name}", "a%00b", "x" * 5000, name.rpartition("/")[0],
    ):  # fmt: skip
        refusal(gallery.get(f"/images/{wrong}"), 404)


def test_ids_that_lead_out_of_the_folder_are_not_followed(tmp_path, make_set, asked, refusal):
    images = tmp_path / "images"
    images.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (images / "link.png").symlink_to(tmp_path / "secret.png")
    (images / "page.html").write_text("<script>")
    (images / "good.png").write_bytes(b"good")
    (images / "folder.png").mkdir()
    names = ["../secret.png", str(tmp_path / "secret.png"), "link.png", "page.html", "folder.png", "gone.png"]
    make_set(tmp_path, ids=[*names, "good.png", *map(str, range(7, 400))])
    with asked(tmp_path, images=images) as client:
        assert client.get("/images/good.png").content == b"good"
        for name in (*names, "%2e%2e%2fsecret.png"):
            refusal(client.get(f"/images/{name}"), 404)
    with asked(tmp_path) as client:
        assert "without --images" in refusal(client.get("/images/good.png"), 404)
