import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

import metasearch as ms

phi = ms.load("phi")  # of a search with the recipe siamese


def pairs(folder):  # how alike any two pictures are, and whether they show the same
    X, y = phi.labelled_images(folder)  # one folder a person: faces/known/ada/1.png ...
    first, second = np.triu_indices(len(X), k=1)
    return phi.similarity(X[first], X[second]).numpy(), y[first] == y[second]


alike, same = pairs("faces/known")
false_accepts, accepts, thresholds = roc_curve(same, alike)
threshold = thresholds[np.argmax(accepts - false_accepts)]
alike, same = pairs("faces/new")  # others: the threshold has not seen them
print(
    f"ROC area {roc_auc_score(same, alike):.3f}, {np.mean((alike >= threshold) == same):.1%} right at {threshold:.3f}"
)
