"""Models into artifacts: `make` is the way in, `exporters` say how, `judge` says if they may."""
