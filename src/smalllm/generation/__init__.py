"""Text from a model: which token comes next, and the loop that asks again."""
