// The theme gives its search dialog no name, and screen readers need one.
document.querySelector("[data-md-component=search]")?.setAttribute("aria-label", "Search");
