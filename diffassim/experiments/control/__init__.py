"""Control: policies beside the best there are."""
