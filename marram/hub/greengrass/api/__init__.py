"""Operations and data-plane routes of the slice, by resource."""
