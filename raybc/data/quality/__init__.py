"""Which demonstrations are good: scores of episodes without labels, and by a classifier that learns from labels.

from raybc.data.load import load
from raybc.data.quality.folder import QualityFolder
from raybc.data.quality.labels import labels_of
from raybc.data.quality.run import QualitySettings, score

store = load("demos.hdf5")
found = score(store, labels_of(store, "labels.csv"), QualitySettings(), QualityFolder(Path("demos-quality")))
found.scores.values["quality"]
"""
