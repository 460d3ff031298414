"""How good a model is: loss and what follows from it, against the unigram model and the grammar's floor."""
