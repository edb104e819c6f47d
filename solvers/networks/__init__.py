"""The networks of the learners; one module and one subclass of `base.Network` per kind."""
