"""What purifiers share: noise, chunks and rounds in `purifier`, and the steps that some of them take."""
