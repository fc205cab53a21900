import metasearch as ms

phi = ms.load("phi")  # of a search with the recipe prototypical; or its id, as above
X, y = phi.labelled_images("letters")  # one folder a class, with some pictures of it: letters/alif/1.png ...
few = phi.classifier().fit(X, y)
print("unknown:", *few.predict(phi.images("unknown")))
print("logged:", few.log_model("letters", input_example=X[:1]))
