from __future__ import annotations

import json

import pytest

from edgeseg.boards import board_by_name, boards, read_boards
from edgeseg.errors import EdgesegError
from edgeseg.export.options import check_imgsz
from edgeseg.registry import targets
from edgeseg.resources import demo_checkpoint


def test_every_line_names_what_there_is():
    words = [w for b in boards().values() for w in (b.name, *b.aliases)]
    assert len(words) == len(set(words)) and {"pi4", "pi5", "coral-usb", "jetson-orin", "jetson-nano", "browser"} <= set(
        words
    )
    for board in boards().values():
        assert board.title and board.about and board.use
        for use in board.use:
            target = targets().get(use.format)
            # A target that is not in the tree yet, or is broken here, is another test's affair.
            assert target is None or use.precision in target.precisions, (board.name, use)
            assert check_imgsz(use.imgsz) == (use.imgsz, use.imgsz) and use.why and use.install
            assert not use.measured, "a measured line needs its figure, and this test the figure's source"


def test_commands_are_those_of_export():
    command = board_by_name("Raspberry Pi 5").use[0].command("my.pt")
    assert command == "edgeseg export my.pt --format tflite --int8 --imgsz 320"
    assert "--int8" not in board_by_name("coral").use[0].command()


def test_doctor_says_what_does_not_work_there(capsys):
    from edgeseg.cli import main

    for name, words in (("armv7l", "no ARMv7 wheels"), ("Python 3.9", "edgeseg wants 3.10"), ("jetpack-4", "Python 3.6")):
        with pytest.raises(SystemExit, match="0"):
            main(["doctor", "--board", name])
        said = capsys.readouterr().out
        assert words in said and "the smallest thing that runs: the C++ decoder" in said and "not tried" in said
    assert board_by_name("zero-2-w").name == "pi3" and board_by_name("pi3").machine == "aarch64"
    assert not board_by_name("armhf").machine, "no bundle where no wheels are"


def test_unknown_board_suggests():
    with pytest.raises(EdgesegError, match="Did you mean 'pi5'"):
        board_by_name("py5")


@pytest.mark.parametrize("text", ["[x", "[x]\ntitle = 'a'", "[x]\nabout='a'\ntitle='b'\nuse=[{format='onnx'}]", "x = 1"])
def test_broken_lists(tmp_path, text):
    file = tmp_path / "boards.toml"
    file.write_text(text)
    with pytest.raises(EdgesegError, match="no list of boards"):
        read_boards(file)
    with pytest.raises(EdgesegError, match="cannot be read"):
        read_boards(tmp_path / "absent.toml")


def test_doctor_tells_what_suits_a_board(capsys):
    from edgeseg.cli import main

    with pytest.raises(SystemExit, match="0"):
        main(["doctor", "--board", "jetson"])
    said = capsys.readouterr().out
    assert "edgeseg export model.pt --format engine --half --imgsz 640" in said and "recommended, not measured" in said
    with pytest.raises(SystemExit, match="0"):
        main(["doctor", "--board", "pi4", "--json"])
    assert json.loads(capsys.readouterr().out)["board"]["title"] == "Raspberry Pi 4"


def test_an_export_for_a_board_takes_what_is_recommended_and_what_was_asked_for(tmp_path, capsys):
    pytest.importorskip("torch")
    from edgeseg.cli import run
    from edgeseg.export.options import ExportOptions
    from edgeseg.fleet.ready import recommended

    for board in boards().values():
        use, options = recommended(board)
        assert use == board.use[0] and options.imgsz == (use.imgsz, use.imgsz)
        assert (options.half, options.int8) == (use.precision == "fp16" or None, use.precision == "int8" or None)
    use, options = recommended(board_by_name("pi5"), ["ncnn"], ExportOptions(imgsz=96))
    assert (use.format, options.half, options.int8, options.imgsz) == ("ncnn", True, None, (96, 96))
    assert recommended(board_by_name("pi5"), (), ExportOptions(half=True))[1].int8 is None
    demo = str(demo_checkpoint())
    assert run(["export", demo, "--board", "pi5", "--format", "onnx"]) == 2
    assert "Give one format of tflite, ncnn, or leave --board out" in capsys.readouterr().err
    assert run(["export", demo, "board=pi6"]) == 2 and "unknown board 'pi6'" in capsys.readouterr().err
    pc = next(b for b in boards().values() if any(u.format == "onnx" and u.precision == "fp32" for u in b.use))
    assert run(["export", demo, f"board={pc.name}", "format=onnx", "imgsz=96", f"out={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert (tmp_path / "demo-seg.onnx").is_file() and f"edgeseg doctor --board {pc.name}" in said
