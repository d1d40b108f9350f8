"""The table of edits that `mutate.py` makes: of wiring more than of formulas.

One line a mutation: what it breaks, the file, the exact old text (once in the file), the new
text, and the tests that must fail of it. `test_mutations.py` checks that the table fits the tree.
"""

from pathlib import Path
from typing import NamedTuple


class Mutation(NamedTuple):
    """An edit that a test must notice."""

    name: str
    """What it breaks; the number is that of the first review."""
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    """Arguments of pytest."""


TRAINING, EVALUATION = "egs_jax/training", "egs_jax/evaluation"
WIRING = "tests/egs_jax/training/test_wiring.py"
HAND = "tests/egs_jax/evaluation/test_evaluate.py"
LOOP = "tests/egs_jax/training/test_loop.py"
GO_BACK = "test_three_bad_steps_between_two_logged_ones_go_back"
DATA, PREPROCESS = "tests/egs_jax/data/test_dataset.py", "tests/egs_jax/preprocess"
STRETCHES = "tests/egs_jax/data/test_stretches.py"
FOLDER = "tests/egs_jax/training/test_run_folder.py"
CHECKPOINT = "tests/egs_jax/training/test_checkpoint.py"
STREAM = "tests/egs_jax/avatar/test_stream.py"
DISPATCH = "tests/kernels/test_dispatch.py"
XLA, RASTERIZER = "kernels/rasterize/xla", "tests/kernels/test_rasterize"


def edit(name: str, file: str, old: str, new: str, *tests: str) -> Mutation:
    """Return a line of the table; tests are FILE::NAME."""
    return Mutation(name, file, old, new, tests)


# fmt: off
MUTATIONS = [
    # Formulas of model, optimizer, data and rasterizer.
    edit("1: all three planes are xy", "egs_jax/model/triplane.py",
         "((0, 1), (1, 2), (0, 2))", "((0, 1), (0, 1), (0, 1))",
         "tests/egs_jax/model/test_triplane.py::test_dense_levels_reproduce_a_linear_function"),
    edit("2: the hash has no prime", "kernels/planes/types.py",
         "HASH_PRIME = 2654435761", "HASH_PRIME = 1",
         "tests/kernels/test_planes.py::test_hash_equals_the_formula_in_unbounded_integers"),
    edit("3: attention without its gain", "kernels/deform/xla/deform.py",
         "shares, weights.gain * tokens, weights", "shares, tokens, weights",
         "tests/kernels/test_deform.py::test_jax_equals_the_definition"),
    edit("4: strided agents are the first", "egs_jax/model/attention.py",
         'if choice == "first" else steps * total // count', "",
         "tests/egs_jax/model/test_attention.py::test_choices_of_agents"),
    edit("5: the perceptual term is not in the total", f"{TRAINING}/losses.py",
         "total = total + weights.perceptual * perceptual_gain * parts[\"perceptual\"]", "pass",
         "tests/egs_jax/training/test_perceptual.py::test_total_loss_takes_the_perceptual_term"),
    edit("6: Adam forgets at once", f"{TRAINING}/optimizer.py",
         "b1=0.9, b2=0.999", "b1=0.0, b2=0.999",
         "tests/egs_jax/training/test_optimizer.py::test_update_equals_plain_adam_for_every_leaf"),
    edit("7: networks do not warm up", f"{TRAINING}/optimizer.py",
         "steps[name] = warmth * scale", "steps[name] = scale",
         "tests/egs_jax/training/test_optimizer.py::test_warmup_slows_the_first_steps_of_the_networks_only"),
    edit("8: silence is paired with any lips", "egs_jax/data/batches.py",
         "np.where(hushed, rest, heard)", "heard",
         f"{DATA}::test_lips_are_paired_with_the_sound_of_their_frames"),
    edit("9: a fifth more is held out", "egs_jax/preprocess/pipeline.py",
         "frames * 10 // 11", "frames * 9 // 11",
         f"{PREPROCESS}/test_pipeline.py::test_split_is_the_papers"),
    edit("10: Jacobians are clamped at 30 %", f"{XLA}/projection.py",
         "(center + 0.15 * size)", "(center + 0.30 * size)",
         f"{RASTERIZER}_reference.py::test_images_and_all_gradients_equal_the_definition"),
    edit("11: the stop has no slack", f"{XLA}/blend.py",
         "STOP_SLACK = 1.0 - 2.0**-16", "STOP_SLACK = 1.0 + 2.0**-16",
         f"{RASTERIZER}_properties.py::test_two_clamped_splats_leave_exactly_the_least_transmittance"),

    # Evaluation.
    edit("17a: the shifted sound is not shifted", f"{EVALUATION}/signals.py",
         "np.roll(frames, shift)", "np.roll(frames, 0 * shift)", f"{HAND}::test_mouth_figures_by_hand"),
    edit("17b: silence is not silent", f"{EVALUATION}/signals.py",
         "openings(quiet, hush)", "openings(quiet, None)", f"{HAND}::test_mouth_figures_by_hand"),
    edit("17c: psnr_lips looks at the eyes", f"{EVALUATION}/measures.py",
         "data.lips_rect(i)[None]", "data.eyes_rect(i).astype(int)[None]", f"{HAND}::test_image_figures_by_hand"),
    edit("17d: LPIPS of the target and itself", f"{EVALUATION}/measures.py",
         "distance(composite, target)", "distance(target, target)", f"{HAND}::test_image_figures_by_hand"),
    edit("17e: the baselines are swapped", f"{EVALUATION}/baselines.py",
         '"baseline_mean_frame": MeanFrame(dataset),\n        "baseline_nearest_frame": NearestFrame(dataset),',
         '"baseline_mean_frame": NearestFrame(dataset),\n        "baseline_nearest_frame": MeanFrame(dataset),',
         f"{HAND}::test_baselines_by_hand"),
    edit("psnr_frame is of the painted composite", f"{EVALUATION}/measures.py",
         "metrics.psnr(image, frame)", "metrics.psnr(image, target)", f"{HAND}::test_image_figures_by_hand"),
    edit("psnr_head is of the whole picture", f"{EVALUATION}/measures.py",
         "metrics.psnr_masked(image, target, head)", "metrics.psnr(image, target)",
         f"{HAND}::test_image_figures_by_hand"),
    edit("psnr_person is of the head", f"{EVALUATION}/measures.py",
         '"psnr_person": metrics.psnr_masked(image, frame, person)', '"psnr_person": metrics.psnr_masked(image, frame, head)',
         f"{HAND}::test_image_figures_by_hand"),
    edit("the mouth's correlation is that of the truth with itself", f"{EVALUATION}/signals.py",
         '"mouth_r": metrics.correlation(rendered, true)', '"mouth_r": metrics.correlation(true, true)',
         f"{HAND}::test_mouth_figures_by_hand"),
    edit("lmd compares the renders with themselves", f"{EVALUATION}/signals.py",
         "metrics.lmd(measured.landmarks, measured.true_landmarks)",
         "metrics.lmd(measured.landmarks, measured.landmarks)", f"{HAND}::test_mouth_figures_by_hand"),
    edit("the nearest frame is searched among all of the clip", f"{EVALUATION}/baselines.py",
         "dataset.landmarks(i)[:, :2] for i in dataset.train_frames", "dataset.landmarks(i)[:, :2] for i in range(dataset.num_frames)",
         f"{HAND}::test_baselines_by_hand"),
    edit("the lag is that of the true lips", f"{EVALUATION}/signals.py",
         "line(mouth_opening(measured.landmarks))", "line(mouth_opening(measured.true_landmarks))", f"{HAND}::test_sync_and_lids_by_hand"),
    edit("faces that were not seen are kept", f"{EVALUATION}/measures.py",
         "face.landmarks if face.score >= MIN_PRESENCE else np.full_like(near, np.nan)", "face.landmarks",
         f"{HAND}::test_mouth_figures_by_hand"),

    # Batches and the dataset's checks.
    edit("silence is shown with any frame", "egs_jax/data/batches.py",
         "np.where(silent, rng.choice(pool.rest, size), frames)", "np.where(silent, frames, frames)",
         f"{DATA}::test_silence_is_paired_with_frames_at_rest_while_deforming"),
    edit("shut eyes have no share", "egs_jax/data/batches.py",
         "schedule.silence_share + schedule.blink_share", "schedule.silence_share",
         f"{DATA}::test_a_share_of_the_deformation_batches_shows_shut_eyes"),
    edit("held-out frames are trained on", "egs_jax/data/batches.py",
         "_in_turn(config.seed, step, size, pool.frames)",
         "_in_turn(config.seed, step, size, np.append(pool.frames, pool.frames[-1] + 1))",
         f"{DATA}::test_every_epoch_is_a_permutation_of_the_training_frames"),
    edit("the sound's spread is that of the whole clip", "egs_jax/data/statistics.py",
         "np.asarray(audio_features)[rows].std(axis=0)", "np.asarray(audio_features).std(axis=0)",
         f"{DATA}::test_spread_of_the_sound_is_that_of_the_training_frames"),
    edit("arrays with a NaN are taken", "egs_jax/data/folder.py",
         'return array.dtype.kind != "f" or bool(np.isfinite(array).all())', "return True",
         f"{DATA}::test_every_array_is_needed_and_checked"),
    edit("splits beyond the clip are taken", "egs_jax/data/folder.py",
         "all(0 <= a < b <= frames for a, b in ranges)", "all(0 <= a < b for a, b in ranges)",
         f"{DATA}::test_description_that_makes_no_sense"),

    # Speech, drive and stream.
    edit("poses jump back instead of turning", "egs_jax/avatar/poses.py",
         "np.concatenate([there, there[::-1]])", "np.concatenate([there, there])",
         "tests/egs_jax/avatar/test_poses.py::test_playback_never_jumps_and_shows_every_frame"),
    edit("live speech is heard as loud as it is", "egs_jax/avatar/scene.py",
         "FeatureStream(self.feature_kind, loudness=self.loudness", "FeatureStream(self.feature_kind, loudness=None",
         f"{STREAM}::test_quiet_speech_moves_the_mouth_as_loud_speech_does"),
    edit("music moves the mouth", "egs_jax/speech/features.py",
         "rows * openness + self._hush * (1 - openness)", "rows",
         "tests/egs_jax/speech/test_level.py::test_where_nobody_speaks_nothing_is_encoded"),
    edit("the first word of a speech is heard from its second window on", "egs_jax/speech/features.py",
         "if len(encoded) == 2:", "if False:",
         "tests/egs_jax/speech/test_level.py::test_where_nobody_speaks_nothing_is_encoded"),
    edit("channels that cancel are mixed", "egs_jax/media/speech_source.py",
         "_LOST = 0.1 ", "_LOST = 0.0 ",
         "tests/egs_jax/media/test_speech_source.py::test_a_tone_of_opposite_phase_is_heard"),
    edit("a recording's drift stays", "egs_jax/preprocess/microphone.py",
         "recording = soxr.resample(recording, SAMPLE_RATE * (1 + drift), SAMPLE_RATE, \"HQ\")", "pass",
         f"{PREPROCESS}/test_microphone.py::test_clocks_that_drift_are_brought_together"),
    edit("a silent film is trained on", "egs_jax/preprocess/film_sound.py",
         "if not np.isfinite(measured):", "if False:",
         f"{PREPROCESS}/test_film_sound.py::test_a_silent_film_is_refused"),
    edit("the stated latency lacks the lead", "egs_jax/speech/layout.py",
         "rows += self.hop_rows + FRAME_ROWS * self.lead_frames(window_frames)", "rows += self.hop_rows",
         f"{STREAM}::test_frames_come_as_soon_as_their_sound_is_there"),
    edit("a window hears further ahead than it may", "egs_jax/speech/layout.py",
         "offsets if self.future_frames is None else np.minimum(offsets, self.future_frames)", "offsets",
         f"{STREAM}::test_a_frame_can_be_drawn_at_the_stated_sample"),
    edit("a stream's rows begin one video frame late", "egs_jax/avatar/speech_batches.py",
         "start + FRAME_ROWS * self._zero", "start + 2 + FRAME_ROWS * self._zero",
         f"{STREAM}::test_batches_hold_what_the_whole_speech_has"),
    edit("the last part of a frame is not drawn", "egs_jax/avatar/speech_batches.py",
         "num_video_frames(before + self._samples, self._fps)",
         "(before + self._samples) * self._fps // SAMPLE_RATE",
         f"{STREAM}::test_batches_hold_what_the_whole_speech_has"),
    edit("a frame between two has the pose of the one before", "egs_jax/avatar/poses.py",
         "steps * share", "steps * 0",
         "tests/egs_jax/avatar/test_poses.py::test_between_turns_evenly"),
    edit("an avatar is put into any film", "egs_jax/avatar/inset.py",
         "if file_sha256(path) != self._source.sha256:", "if False:",
         "tests/egs_jax/avatar/test_inset.py::test_other_films_and_looks_are_refused"),
    edit("what is transparent keeps black in its colors", "egs_jax/avatar/film.py",
         "np.rint(np.clip(colors, 0, 255))", "drawn",
         "tests/egs_jax/avatar/test_film.py::test_transparent_frames_over_a_room_are_those_drawn_over_it"),
    edit("an interrupted speech is cut, not faded", "egs_jax/avatar/speech_batches.py",
         "batches._rise = (np.arange(count, dtype=np.float32) + 1) / (count + 1)",
         "batches._rise = np.ones(count, np.float32)",
         "tests/egs_jax/avatar/test_speech_batches.py::test_rows_are_the_old_up_to_the_seam_and_then_fade_to_silence"),
    edit("who brings all at once takes the others' turns", "egs_jax/avatar/turns.py",
         "found = max(now, self._next)", "found = now",
         "tests/egs_jax/avatar/test_sessions.py::test_whoever_brings_much_at_once_takes_nobody_s_turn"),
    edit("calls that hear are not spaced", "egs_jax/avatar/turns.py",
         "time.sleep(self._next - now)", "pass",
         "tests/egs_jax/avatar/test_sessions.py::test_calls_follow_each_other_with_some_space_and_late_ones_at_once"),
    edit("few sessions wait as long as many", "egs_jax/avatar/sessions.py",
         "return min(len(self._open) / most, 1.0)", "return 1.0",
         "tests/egs_jax/avatar/test_sessions.py::test_few_sessions_and_many_groups_are_not_kept_waiting"),
    edit("page-locked rows are given to two", "egs_jax/runtime/one_copy.py",
         "free.pop() if free", "free[-1] if free",
         "tests/egs_jax/runtime/test_one_copy.py::test_page_locked_rows_are_written_again_when_their_program_has_ended"),
    edit("who speaks somewhere counts as speaking throughout", "egs_jax/speech/level.py",
         "and all(speaks[first : last + 1])", "and any(speaks[first : last + 1])",
         "tests/egs_jax/speech/test_level.py::test_the_gate_is_as_open_as_the_nearest_speech_says"),
    edit("every window goes through the largest program", "egs_jax/speech/window_rows.py",
         "size = padded_count(len(left)), ", "size = 16, ",
         "tests/egs_jax/speech/test_window_rows.py::"
         "test_windows_fill_the_smallest_program_that_takes_them"),
    edit("what is remembered of a voice counts others' chunks", "egs_jax/media/voice_activity.py",
         "last = counts, xp.arange(len(counts))", "last = counts * 0 + counts.max(), "
         "xp.arange(len(counts))",
         "tests/egs_jax/speech/test_voice_on_device.py::test_several_sounds_are_judged_as_each_alone"),
    edit("a filter's memory is computed from itself", "egs_jax/speech/level.py",
         "bands[k, : order - k] = 0", "pass",
         "tests/egs_jax/speech/test_level.py::test_the_weighting_is_the_librarys"),

    # Preprocessing.
    edit("late sound is moved the other way", "egs_jax/preprocess/material.py",
         "samples[moved:] if moved > 0 else np.pad(samples, (-moved, 0))",
         "samples[-moved:] if moved < 0 else np.pad(samples, (moved, 0))",
         f"{PREPROCESS}/test_pipeline.py::test_late_sound_is_moved_and_natural_lag_kept"),
    edit("windows hear what is before a cut", "egs_jax/speech/frame_windows.py",
         "is_inside & (index >= first) & (index < end)", "is_inside & (end > first)",
         f"{STRETCHES}::test_windows_hear_their_own_film_and_silence_beyond_it"),
    edit("a hidden mouth teaches", "egs_jax/data/dataset.py",
         "self.valid & np.asarray(self.arrays[\"mouth_seen\"])", "self.valid",
         f"{STRETCHES}::test_frames_without_face_or_mouth_teach_nothing"),
    edit("a body follows a head before the cut", "egs_jax/data/body.py",
         "0 if starts is None else starts[numbers]", "0",
         f"{STRETCHES}::test_body_is_told_from_the_path_of_its_own_stretch"),
    edit("fades are kept", "egs_jax/preprocess/shots.py", "broken = mixed | held", "broken = held",
         f"{PREPROCESS}/test_shots.py::test_fades_and_dissolves_are_left_out"),
    edit("cuts are led over", "egs_jax/preprocess/shots.py",
         "not broken[gap].any() and not cut[a]", "not broken[gap].any()",
         f"{PREPROCESS}/test_shots.py::test_cut_ends_a_stretch_and_loses_nothing"),
    edit("films keep their exposure", "egs_jax/preprocess/exposure.py",
         "gain = np.median(wanted[known] / found[known], axis=0)", "gain = np.ones(3)",
         f"{PREPROCESS}/test_shots.py::test_exposures_of_films_are_brought_to_that_of_the_longest"),
    edit("interlaced pictures stay so", "egs_jax/media/decoded_pictures.py",
         "if graph is None and frame.interlaced_frame", "if graph is None and not frame.width",
         "tests/egs_jax/media/test_video_reader.py::test_interlaced_pictures_become_whole_frames"),
    edit("a shut eye is 0", "egs_jax/preprocess/pipeline.py",
         "np.clip((0.95 * opened - openness) /", "np.clip((openness - shut) /",
         f"{PREPROCESS}/test_pipeline.py::test_blink_is_zero_open_and_one_shut"),
    edit("reprojection error counts lost frames", "egs_jax/preprocess/tracking.py",
         "(error[valid] ** 2)", "(error**2)",
         f"{PREPROCESS}/test_tracking.py::test_reprojection_rms_counts_valid_frames_only"),
    edit("other people are the person", "egs_jax/preprocess/masks.py",
         "probability = np.where(others, 0, probability)", "others = others & False",
         f"{PREPROCESS}/test_masks.py::test_another_person_apart_is_room"),
    edit("what stands before a room moves it", "egs_jax/preprocess/room_check.py",
         "max(unmoved - _TIE, _FOUND)", "0.01",
         f"{PREPROCESS}/test_room_check.py::test_a_passer_by_and_a_screen_are_no_moving_camera"),
    edit("a moving room is not refused", f"{TRAINING}/loop.py",
         "verdict == \"bad\" and config", "verdict == \"\" and config",
         f"{LOOP}::test_a_person_before_a_moving_room_is_refused_or_warned_of"),

    # Records and checkpoints.
    edit("a resumed log keeps the lines that a crash lost", f"{TRAINING}/run_folder.py",
         'line.get("step", 0) <= step', "True", f"{FOLDER}::test_resumed_log_drops_what_the_crash_lost"),
    edit("numbers that are none are written as such", f"{TRAINING}/run_folder.py",
         "None if _non_finite(v) else v", "v", f"{FOLDER}::test_records_are_lines_and_points"),
    edit("a run goes on with any number of frames a step", f"{TRAINING}/run_folder.py",
         "if stored.frames(stage) != config.frames(stage):", "if False:",
         f"{FOLDER}::test_a_run_goes_on_where_its_steps_have_as_many_frames"),
    edit("a damaged checkpoint passes for whole", f"{TRAINING}/checkpoint.py",
         "(folder / name).is_file() and file_sha256(folder / name) == digest", "True",
         f"{CHECKPOINT}::test_damage_names_the_folder_and_the_remedy"),
    edit("every failed restore is called damage", f"{TRAINING}/checkpoint.py",
         "except Exception as error:  # Orbax has many kinds\n",
         'except Exception as error:\n            raise InputError(f"{where}: damaged, delete this folder") from error\n',
         f"{CHECKPOINT}::test_other_failures_are_named_and_nobody_is_told_to_delete"),
    edit("the state's hash ignores the shape", f"{TRAINING}/checkpoint.py",
         "{path} {array.dtype} {array.shape}", "{path} {array.dtype}",
         f"{CHECKPOINT}::test_hash_is_stable_and_sees_every_change"),

    # Density control, several devices and hosts, dispatch.
    edit("18: the density gradient is a mean over the frames", f"{TRAINING}/step.py",
         "stats, count * offset_grad, aux.radii", "stats, offset_grad, aux.radii",
         "tests/egs_jax/training/test_parallel.py::test_gradients_and_losses_are_those_of_one_device"),
    edit("a named implementation that cannot run falls back", "kernels/dispatch.py",
         "    if reason:\n", "    if False:\n",
         f"{DISPATCH}::test_a_gpu_without_triton_warns_once_for_all_kernels"),
    edit("a card that lacks shared memory passes", "kernels/dispatch.py",
         "if shared_memory_of(own) < shared_memory:", "if False:", f"{DISPATCH}::test_shared_memory_of_a_gpu"),
    edit("a GPU falls to XLA without a word", "kernels/dispatch.py",
         "        _tell_of_xla(kernel, obstacle_here, obstacle)\n", "",
         f"{DISPATCH}::test_a_gpu_warns_of_every_kernel_that_has_no_triton"),
    edit("hosts with other settings meet", f"{TRAINING}/hosts.py",
         "            if not same:", "            if False:",
         "tests/egs_jax/training/test_hosts.py::test_which_host_differs_in_what_is_named"),
    edit("all hosts hear the same silence", "egs_jax/data/batches.py",
         "places = jax.process_index() * len(frames)", "places = 0 * len(frames)",
         "tests/egs_jax/training/test_hosts.py::test_the_parts_of_two_hosts_are_the_batch"),

    # Switches of the training step.
    edit("12: harmonics are active from the start", "egs_jax/model/forward.py",
         "    if sh_degree is not None:", "    if False:", f"{WIRING}::test_harmonics_become_active_by_the_schedule"),
    edit("13: dropout is never on", f"{TRAINING}/step.py",
         "dropout_key=jax.random.fold_in(key, DROPOUT_KEY)", "dropout_key=None",
         f"{WIRING}::test_dropout_is_on_and_drawn_from_the_seed"),
    edit("dropout is the same in every step", f"{TRAINING}/step.py",
         "    key = jax.random.fold_in(jax.random.key(seed), state.step)\n", "    key = jax.random.key(seed)\n",
         f"{WIRING}::test_dropout_is_another_one_in_every_step"),
    edit("14: the sound is heard without noise", f"{TRAINING}/step.py",
         "batch.entry_noise[None, None] * noise", "0 * noise", f"{WIRING}::test_the_sound_is_heard_through_noise"),
    edit("15: halved rates are not used", f"{TRAINING}/step.py",
         "state.rate_scale * (1.0 if static", "1.0 * (1.0 if static", f"{WIRING}::test_halved_rates_halve_the_step"),
    edit("16: free colors learn in the static stage", "egs_jax/model/forward.py",
         "jax.lax.stop_gradient(free.sh0)", "free.sh0",
         f"{WIRING}::test_free_colors_are_seen_but_not_learned_in_the_static_stage"),
    edit("rates do not cool down", f"{TRAINING}/step.py",
         "(1.0 if static else _cooled(config, state.step))", "1.0",
         f"{WIRING}::test_rates_cool_down_at_the_end_of_the_second_stage"),
    edit("the second stage does not warm up", f"{TRAINING}/step.py",
         "warmup_steps=0 if static else config.optim.warmup_steps", "warmup_steps=0",
         f"{WIRING}::test_networks_warm_up_in_the_second_stage_only"),
    edit("lips and eyes are swapped in the loss", f"{TRAINING}/step.py",
         "        batch.lips_rects,\n        batch.eyes_rects,\n", "        batch.eyes_rects,\n        batch.lips_rects,\n",
         f"{WIRING}::test_every_array_of_the_batch_reaches_its_part_of_the_loss"),
    edit("reading lips from sound is not in the total", f"{TRAINING}/step.py",
         "total = total + config.loss.hearing * parts[\"hearing\"]", "total = total + 0",
         f"{WIRING}::test_every_part_of_the_loss_has_its_weight[hearing]"),
    edit("weights that nothing shows wander", f"{TRAINING}/step.py",
         "total = total + config.loss.roughness * parts[\"roughness\"]", "total = total + 0",
         f"{WIRING}::test_every_part_of_the_loss_has_its_weight[roughness]"),
    edit("Gaussians of a person grow to needles", f"{TRAINING}/step.py",
         "    if config.model.is_person:\n        cloud = shortened", "    if False:\n        cloud = shortened",
         "tests/egs_jax/training/test_person.py::test_gaussians_of_a_person_stay_short"),
    edit("skipped perceptual terms are not made up for", f"{TRAINING}/step.py",
         "perceptual_gain=float(config.loss.perceptual_every)", "perceptual_gain=1.0",
         f"{WIRING}::test_skipped_perceptual_terms_are_made_up_for"),
    edit("an avatar draws harmonics that were never learned", "egs_jax/avatar/precomputed.py",
         "active = active_harmonics(model.harmonics(model_config), sh_degree)\n    cloud", "active = active_harmonics(model.harmonics(model_config), 3)\n    cloud",
         f"{WIRING}::test_an_avatar_draws_what_the_loss_saw"),
    edit("shoulders move with the head", "egs_jax/model/skinning.py",
         "bodies = rigid.product(heads, apart)", "bodies = heads",
         "tests/egs_jax/model/test_skinning.py::test_with_all_weight_the_cloud_is_seen_by_the_bodys_camera"),
    edit("the nearest node has all the weight", "egs_jax/model/skinning.py",
         "jnp.maximum(0.0, 1 - jnp.abs(place[:, None] - nodes[None]))", "1.0 * (jnp.abs(place[:, None] - nodes) <= 0.5)",
         "tests/egs_jax/model/test_skinning.py::test_weights_are_linear_between_the_nodes"),
    edit("half turns are blended the long way", "egs_jax/model/skinning.py",
         "strict=True)) < 0, -1.0, 1.0)", "strict=True)) < 0, 1.0, 1.0)",
         "tests/egs_jax/model/test_skinning.py::test_turns_to_either_side_of_half_a_turn_are_blended_the_short_way"),
    edit("colors follow the camera where it never was", "egs_jax/model/skinning.py",
         "heads = rigid.identities(views.shift[0]) if limits is None else limits.turns(views)",
         "heads = rigid.identities(views.shift[0])",
         "tests/egs_jax/model/test_limits.py::test_beyond_colors_are_those_of_the_edge_and_the_silhouette_is_the_true_one"),
    edit("tokens are told poses that never were", "egs_jax/avatar/precomputed.py",
         "viewmats=kept.limits.poses(drive.viewmats)", "viewmats=drive.viewmats",
         "tests/egs_jax/training/test_person.py::test_an_avatar_keeps_to_the_poses_of_its_training"),
    edit("an avatar forgets what moves with the body", "egs_jax/avatar/precomputed.py",
         "skins=spatial.skins,", "skins=None,",
         "tests/egs_jax/training/test_person.py::test_an_avatar_draws_the_body_where_it_is_told"),
    edit("a step that is not finite changes the parameters", f"{TRAINING}/step.py",
         "functools.partial(jnp.where, finite),", "lambda new, old: new,",
         "tests/egs_jax/training/test_step.py::test_a_batch_with_a_nan_changes_only_the_counts"),

    # The loop: going back, resuming, logging.
    edit("going back does not lower the rates", f"{TRAINING}/loop.py",
         "_roll_back(run, rate_scale / 2, bad.step)", "_roll_back(run, rate_scale, bad.step)", f"{LOOP}::{GO_BACK}"),
    edit("going back keeps the log of the steps to come", f"{TRAINING}/loop.py",
         "log.rewind(int(state.step))", "pass",
         f"{LOOP}::test_going_back_before_the_first_checkpoint_starts_anew"),
    edit("a run goes back one bad step late", f"{TRAINING}/monitor.py",
         "if streak >= BAD_STEPS:", "if streak > BAD_STEPS:", f"{LOOP}::{GO_BACK}"),
    edit("bad steps before a checkpoint count again", f"{TRAINING}/loop.py",
         "state.replace(rate_scale=scale, bad_streak=streak)", "state.replace(rate_scale=scale)",
         f"{LOOP}::test_a_checkpoint_after_a_bad_step_does_not_count_it_twice"),
    edit("open mouths where nobody is heard are trained on", "egs_jax/data/dataset.py",
         "return frames[statistics.told_by_sound(opening, heard)]", "return frames",
         "tests/egs_jax/data/test_dataset.py::test_open_mouths_where_nobody_is_heard_are_not_trained_on"),
    edit("the log names the stage of the next step", f"{TRAINING}/monitor.py",
         "self._config.stage(step.number - 1)", "self._config.stage(step.number)", f"{LOOP}::test_files_of_a_run"),
    edit("the log does not end with the state's hash", f"{TRAINING}/loop.py",
         'log.write({"step": int(state.step), "state_sha256": digest})', "pass", f"{LOOP}::test_files_of_a_run"),
    edit("a resumed run repeats a batch", f"{TRAINING}/loop.py",
         "batches_from(config, run.source, int(state.step))", "batches_from(config, run.source, max(int(state.step) - 1, 0))",
         f"{LOOP}::test_a_damaged_checkpoint_is_one_line_and_status_2"),
]
# fmt: on


def misfits(root: Path, mutations: list[Mutation]) -> list[str]:
    """Return what is wrong with the table: text that is not found once, tests that do not exist."""
    faults = []
    for mutation in mutations:
        count = (root / mutation.file).read_text(encoding="utf-8").count(mutation.old)
        if count != 1 or mutation.old == mutation.new:
            faults.append(f"{mutation.name}: its old text occurs {count} times in {mutation.file}")
        for test in mutation.tests:
            file, _, name = test.partition("::")
            text = (root / file).read_text(encoding="utf-8") if (root / file).exists() else ""
            if f"def {name.partition('[')[0]}(" not in text:
                faults.append(f"{mutation.name}: there is no {test}")
    return faults
