/**
 * What the reader has chosen in one study; each view gets every change.
 *
 * chosen: row whose configuration is shown. pinned: row it is compared with, or null.
 * selected: Set of configuration codes, never changed in place. round: the round that Pareto fronts show.
 * knob: place of the knob that layers are coloured by. layer: place of the marked layer, or null.
 * drag: what dragging in a figure does.
 */
export function makeStore(initial) {
  const state = { ...initial };
  const views = [];
  return {
    state,
    subscribe(view) {
      views.push(view);
    },
    set(change) {
      const changed = new Set(Object.keys(change).filter((key) => !Object.is(state[key], change[key])));
      if (changed.size === 0) return;
      Object.assign(state, change);
      for (const view of views) view(changed);
    },
  };
}

/** A set with the members of both; or without those of the second, if all of them are in it. */
export function toggled(set, members) {
  const all = members.every((member) => set.has(member));
  const made = new Set(set);
  for (const member of members) {
    if (all) made.delete(member);
    else made.add(member);
  }
  return made;
}
