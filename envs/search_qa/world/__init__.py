"""A generated encyclopaedia: invented entities, passages about them, and questions whose answers can be looked up."""
